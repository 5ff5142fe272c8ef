-- What people delete is archived: rows that others refer to stay, lists and names forget them. And what a list of
-- experiments shows stands in columns, so that it reads no report.
ALTER TABLE experiments
    ADD COLUMN archived_at timestamptz,
    ADD COLUMN ensemble_vs_dense_percent double precision,
    ADD CONSTRAINT experiments_archived CHECK (archived_at IS NULL OR state NOT IN ('running', 'paused'));
UPDATE experiments SET ensemble_vs_dense_percent =
        (jsonb_path_query_first(report, '$.contestants[*] ? (@.key == "ensemble").vs_dense_percent') #>> '{}')::double precision
    WHERE report IS NOT NULL;
COMMENT ON COLUMN experiments.archived_at IS 'when somebody deleted it: only its history is left';
COMMENT ON COLUMN experiments.ensemble_vs_dense_percent IS 'of its report, for lists';

ALTER TABLE corpora ADD COLUMN archived_at timestamptz;
ALTER TABLE corpora DROP CONSTRAINT corpora_name_key;
CREATE UNIQUE INDEX corpora_name ON corpora (name) WHERE archived_at IS NULL;
COMMENT ON COLUMN corpora.archived_at IS 'when somebody deleted it; its name is free again';
COMMENT ON INDEX corpora_name IS 'a name means one corpus';

ALTER TABLE workers ADD COLUMN archived_at timestamptz;
COMMENT ON COLUMN workers.archived_at IS 'when somebody deleted it; heard of again after that, it is back';
