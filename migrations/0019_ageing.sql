-- Nothing grows without bound: how old what is, so that it can go, and what a curve keeps when its points have gone. And
-- an epoch, so that a restored database gives no fence a second time.

ALTER TABLE metric_chunks
    ADD COLUMN at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN thinned boolean NOT NULL DEFAULT false,
    ADD CHECK (level > 0 OR NOT thinned);
COMMENT ON COLUMN metric_chunks.at IS 'when it was made';
COMMENT ON COLUMN metric_chunks.thinned IS 'whether the rows that it summarises were removed for their age: it stands for them';
COMMENT ON COLUMN metric_chunks.spark_steps IS 'a few steps for sparklines; on level 0, and where that is gone on the lowest level that is left';
CREATE INDEX metric_chunks_thick ON metric_chunks (level, at) WHERE level > 0 AND NOT thinned;
COMMENT ON INDEX metric_chunks_thick IS 'summaries whose rows below may go, the oldest first';

ALTER TABLE log_batches ADD COLUMN at timestamptz NOT NULL DEFAULT now();
COMMENT ON COLUMN log_batches.at IS 'when it arrived';

ALTER TABLE experiments ADD COLUMN history_pruned boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN experiments.history_pruned IS 'whether it ended so long ago that the history of its jobs was removed';

CREATE INDEX events_kind ON events (kind, id);
COMMENT ON INDEX events_kind IS 'the last event of a condition that lasts (a full disk, a store that is not there)';

ALTER TABLE store_identity ADD COLUMN epoch bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0);
COMMENT ON COLUMN store_identity.epoch IS 'how often this database was restored from a backup; the store''s object has the same number';

-- What a restore forgot was granted too, by the same numbers: every fence given after it is above all of them.
CREATE FUNCTION fence_floor() RETURNS bigint LANGUAGE sql STABLE
    AS $$ SELECT COALESCE((SELECT epoch FROM store_identity), 0) * 1000000000 $$;
COMMENT ON FUNCTION fence_floor() IS 'fence of a new job: a thousand million for each epoch';
ALTER TABLE jobs ALTER COLUMN fence SET DEFAULT fence_floor();
