-- Of jobs that are alike to the scheduler, a plan needs only the first few: no pass reads the whole queue.
ALTER TABLE jobs ADD COLUMN alike bigint NOT NULL
    GENERATED ALWAYS AS (hashtextextended(experiment_id::text || ' ' || kind || ' ' || slots::text || ' ' || needs::text, 0)) STORED;
COMMENT ON COLUMN jobs.alike IS 'the same for jobs of one experiment, kind, number of slots and needs';
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
