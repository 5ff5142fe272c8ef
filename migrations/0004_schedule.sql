-- What the scheduler knows beyond priorities: needs, preemption, deadlines, budgets; workers that are set aside.
ALTER TABLE jobs
    ADD COLUMN needs jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN preempted_for uuid,
    ADD CONSTRAINT jobs_preempted CHECK (preempted_for IS NULL OR state = 'running');
COMMENT ON COLUMN jobs.needs IS 'Needs: what each of its slots must offer';
COMMENT ON COLUMN jobs.preempted_for IS 'the job of higher priority for which it shall give its slots up';

ALTER TABLE attempts
    ADD COLUMN session bigint,
    ADD COLUMN delivered_at timestamptz,
    ADD COLUMN progress_last bigint,
    ADD CONSTRAINT attempts_delivered CHECK ((session IS NULL) = (delivered_at IS NULL)),
    ADD CONSTRAINT attempts_ended CHECK (progress_last IS NULL OR finished_at IS NOT NULL);
CREATE INDEX attempts_worker ON attempts (worker_id, finished_at);
COMMENT ON COLUMN attempts.session IS 'session of the worker that fetched it: only that one is expected to report it';
COMMENT ON COLUMN attempts.delivered_at IS 'when it was fetched';
COMMENT ON COLUMN attempts.progress_last IS 'how far its job was when it ended, in steps or units: the same again and again is no progress';
COMMENT ON INDEX attempts_worker IS 'how the last attempts on a worker ended';

ALTER TABLE workers
    ADD COLUMN set_aside text,
    ADD COLUMN beat_at timestamptz,
    ADD COLUMN judged_from timestamptz NOT NULL DEFAULT now();
COMMENT ON COLUMN workers.set_aside IS 'why it is given no new jobs: job after job failed there; null when it is not set aside';
COMMENT ON COLUMN workers.beat_at IS 'last heartbeat: what it should run and did not name is not run';
COMMENT ON COLUMN workers.judged_from IS 'what ended before is forgiven: somebody enabled it then';

ALTER TABLE experiments
    ADD COLUMN deadline timestamptz,
    ADD COLUMN deadline_missed_at timestamptz,
    ADD COLUMN budget_slot_hours double precision CHECK (budget_slot_hours > 0),
    ADD COLUMN budget_wall_hours double precision CHECK (budget_wall_hours > 0),
    ADD COLUMN paused_why text,
    ADD CONSTRAINT experiments_paused CHECK (paused_why IS NULL OR state = 'paused');
COMMENT ON COLUMN experiments.deadline IS 'when it should be done';
COMMENT ON COLUMN experiments.deadline_missed_at IS 'when it was said that it cannot be done by then; said once';
COMMENT ON COLUMN experiments.budget_slot_hours IS 'hours of slots that it may take, over all attempts';
COMMENT ON COLUMN experiments.budget_wall_hours IS 'hours that it may take since its first attempt began';
COMMENT ON COLUMN experiments.paused_why IS 'why the server paused it (a spent budget); null when a person did';
