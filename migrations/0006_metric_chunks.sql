-- Batches land as one small row each; a loop compacts them into chunks with a pyramid of summaries above, so that a
-- curve of any length is drawn from a bounded number of rows.
ALTER TABLE metric_batches ADD COLUMN points integer, ADD COLUMN loss double precision, ADD COLUMN body bytea;
UPDATE metric_batches SET points = cardinality(steps), loss = (series->'train/loss'->>-1)::double precision,
    body = convert_to(jsonb_build_object('steps', steps, 'tokens', tokens, 'at_ms', at_ms, 'series', series)::text, 'UTF8');
ALTER TABLE metric_batches ALTER COLUMN points SET NOT NULL, ALTER COLUMN body SET NOT NULL,
    ADD CHECK (points > 0), ADD CHECK (step_first <= step_last),
    DROP COLUMN steps, DROP COLUMN tokens, DROP COLUMN at_ms, DROP COLUMN series;
ALTER TABLE metric_batches ALTER COLUMN body SET STORAGE EXTERNAL;
-- The primary key finds a branch's batches; each index is written a thousand times a second.
DROP INDEX metric_batches_steps;
COMMENT ON TABLE metric_batches IS 'metric points as workers send them, one row a batch, until they are compacted';
COMMENT ON COLUMN metric_batches.points IS 'number of points';
COMMENT ON COLUMN metric_batches.loss IS 'training loss of the last point, where finite';
COMMENT ON COLUMN metric_batches.body IS 'the points in columns (domain::metrics::codec); JSON in rows that are older than the codec';

CREATE TABLE metric_chunks (
    branch_id uuid NOT NULL REFERENCES branches ON DELETE CASCADE,
    fence bigint NOT NULL,
    level smallint NOT NULL CHECK (level >= 0),
    step_first bigint NOT NULL,
    step_last bigint NOT NULL,
    points bigint NOT NULL CHECK (points > 0),
    covered boolean NOT NULL DEFAULT false,
    spark_steps bigint[] NOT NULL DEFAULT '{}',
    spark_losses double precision[] NOT NULL DEFAULT '{}',
    body bytea NOT NULL,
    PRIMARY KEY (branch_id, fence, level, step_first),
    CHECK (step_first <= step_last),
    CHECK (level > 0 OR covered),
    CHECK (cardinality(spark_steps) = cardinality(spark_losses))
);
ALTER TABLE metric_chunks ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX metric_chunks_roots ON metric_chunks (branch_id, fence, level, step_first) WHERE NOT covered;
COMMENT ON TABLE metric_chunks IS 'compacted metric points (level 0) and summaries of them (a bucket of level n holds 16^n points)';
COMMENT ON INDEX metric_chunks_roots IS 'tops of the pyramids: how many points there are, and what to summarise next';
COMMENT ON COLUMN metric_chunks.branch_id IS 'the branch';
COMMENT ON COLUMN metric_chunks.fence IS 'fence of the attempt';
COMMENT ON COLUMN metric_chunks.level IS '0 for the points themselves, n for buckets of 16^n points';
COMMENT ON COLUMN metric_chunks.step_first IS 'first step';
COMMENT ON COLUMN metric_chunks.step_last IS 'last step; a batch of this fence that begins at or before it was compacted already';
COMMENT ON COLUMN metric_chunks.points IS 'number of points';
COMMENT ON COLUMN metric_chunks.covered IS 'whether a row of the level above summarises it';
COMMENT ON COLUMN metric_chunks.spark_steps IS 'a few steps for sparklines, level 0 only';
COMMENT ON COLUMN metric_chunks.spark_losses IS 'training loss at these steps';
COMMENT ON COLUMN metric_chunks.body IS 'columns, compressed (domain::metrics::codec)';

-- What each request and each pass of a loop looks up, with ten thousand jobs in the table.
CREATE UNIQUE INDEX jobs_attempt ON jobs (attempt_id) WHERE attempt_id IS NOT NULL;
COMMENT ON INDEX jobs_attempt IS 'the fence check of every write';
CREATE INDEX jobs_branch ON jobs (branch_id) WHERE branch_id IS NOT NULL;
COMMENT ON INDEX jobs_branch IS 'the job of a branch';
CREATE INDEX jobs_running ON jobs (worker_id) WHERE state = 'running';
COMMENT ON INDEX jobs_running IS 'what runs, without what waits';
CREATE INDEX attempts_undelivered ON attempts (worker_id) WHERE NOT delivered;
COMMENT ON INDEX attempts_undelivered IS 'grants that a poll has not fetched';
-- Rows that change every second find room on their own page.
ALTER TABLE branches SET (fillfactor = 70);
