-- Jobs have owners of several kinds: an experiment, or a corpus, whose files are read by workers too.
ALTER TABLE jobs ALTER COLUMN experiment_id DROP NOT NULL;
ALTER TABLE jobs ADD COLUMN corpus_id uuid REFERENCES corpora ON DELETE CASCADE;
ALTER TABLE jobs ADD CONSTRAINT jobs_owner_check CHECK (num_nonnulls(experiment_id, corpus_id) = 1);
ALTER TABLE jobs ADD COLUMN owner_id uuid NOT NULL GENERATED ALWAYS AS (COALESCE(experiment_id, corpus_id)) STORED;
ALTER TABLE jobs ADD CONSTRAINT jobs_corpus_key UNIQUE (corpus_id, key);
COMMENT ON COLUMN jobs.experiment_id IS 'the experiment whose work it is; null where it is a corpus''s';
COMMENT ON COLUMN jobs.corpus_id IS 'the corpus whose work it is; null where it is an experiment''s';
COMMENT ON COLUMN jobs.owner_id IS 'whose work it is, whatever that is';
COMMENT ON COLUMN jobs.key IS 'what it is for its owner (shard/3, train/dense, scan/3): asking twice creates it once';

ALTER TABLE jobs ADD COLUMN failed_on uuid REFERENCES workers ON DELETE SET NULL;
COMMENT ON COLUMN jobs.failed_on IS 'the worker on which its last failure was: another one is tried next, if it is free';

ALTER TABLE jobs DROP CONSTRAINT jobs_kind_check;
ALTER TABLE jobs ADD CONSTRAINT jobs_kind_check
    CHECK (kind IN ('scan', 'deduplicate', 'shard', 'train', 'evaluate', 'merge', 'ensemble', 'decontaminate'));

DROP VIEW queued_kinds;
ALTER TABLE jobs DROP COLUMN alike;
ALTER TABLE jobs ADD COLUMN alike bigint NOT NULL GENERATED ALWAYS AS (
    hashtextextended(COALESCE(experiment_id, corpus_id)::text || ' ' || kind || ' ' || slots::text || ' ' || needs::text, 0)) STORED;
COMMENT ON COLUMN jobs.alike IS 'the same for jobs of one owner, kind, number of slots and needs';
CREATE INDEX jobs_queued ON jobs (alike, priority DESC, remaining DESC, created_at, id) WHERE state = 'queued';
COMMENT ON INDEX jobs_queued IS 'each kind of queued jobs in the order in which they are granted';
CREATE VIEW queued_kinds AS
    WITH RECURSIVE kinds AS (
        SELECT min(alike) AS alike FROM jobs WHERE state = 'queued'
        UNION ALL
        SELECT (SELECT min(j.alike) FROM jobs j WHERE j.state = 'queued' AND j.alike > kinds.alike) FROM kinds WHERE kinds.alike IS NOT NULL)
    SELECT alike FROM kinds WHERE alike IS NOT NULL;
COMMENT ON VIEW queued_kinds IS 'kinds of queued jobs, one step of an index each';
COMMENT ON COLUMN queued_kinds.alike IS 'as in jobs';

CREATE VIEW owners AS
    SELECT id, name, state, paused_why, deadline FROM experiments
    UNION ALL
    SELECT id, name, CASE WHEN archived_at IS NOT NULL THEN 'cancelled' WHEN state = 'scanning' THEN 'running' WHEN state = 'ready' THEN 'completed' ELSE 'failed' END,
        NULL, NULL FROM corpora;
COMMENT ON VIEW owners IS 'whose work jobs are: experiments and corpora';
COMMENT ON COLUMN owners.id IS 'identity, as in jobs.owner_id';
COMMENT ON COLUMN owners.name IS 'name';
COMMENT ON COLUMN owners.state IS 'in the words of experiments: a corpus runs while it is scanned';
COMMENT ON COLUMN owners.paused_why IS 'why the server paused it';
COMMENT ON COLUMN owners.deadline IS 'when it shall be done';
