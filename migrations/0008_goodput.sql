-- Where the time goes. Workers count the time inside an attempt; the database itself notes when jobs, experiments and
-- workers change their state, whichever statement changes it, so that no path can forget to.

ALTER TABLE attempts
    ADD COLUMN starting_ms bigint NOT NULL DEFAULT 0 CHECK (starting_ms >= 0),
    ADD COLUMN training_ms bigint NOT NULL DEFAULT 0 CHECK (training_ms >= 0),
    ADD COLUMN checkpoint_stall_ms bigint NOT NULL DEFAULT 0 CHECK (checkpoint_stall_ms >= 0),
    ADD COLUMN data_wait_ms bigint NOT NULL DEFAULT 0 CHECK (data_wait_ms >= 0),
    ADD COLUMN step_last bigint NOT NULL DEFAULT 0 CHECK (step_last >= 0),
    -- Each heartbeat writes these: room for the new version of a row beside the old one.
    SET (fillfactor = 70);
CREATE INDEX attempts_finished ON attempts (finished_at);
COMMENT ON INDEX attempts_finished IS 'attempts of the last hours, and those that run';
COMMENT ON COLUMN attempts.starting_ms IS 'worker''s count: from the grant''s arrival to the first step; only grows, as the next four do';
COMMENT ON COLUMN attempts.training_ms IS 'worker''s count: from the first step''s begin to the end of the last one finished';
COMMENT ON COLUMN attempts.checkpoint_stall_ms IS 'of training_ms, the time that training stood still for a save';
COMMENT ON COLUMN attempts.data_wait_ms IS 'of training_ms, the time that training waited for a batch';
COMMENT ON COLUMN attempts.step_last IS 'the last optimiser step that it finished';

CREATE TABLE job_states (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    state text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX job_states_job ON job_states (job_id, id);
COMMENT ON TABLE job_states IS 'when each job came into which state: why it waited between attempts';
COMMENT ON INDEX job_states_job IS 'the history of a job';
COMMENT ON COLUMN job_states.id IS 'order of the changes';
COMMENT ON COLUMN job_states.job_id IS 'the job';
COMMENT ON COLUMN job_states.state IS 'the state from then on; what jobs.state allows';
COMMENT ON COLUMN job_states.at IS 'when';

CREATE TABLE experiment_states (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    experiment_id uuid NOT NULL REFERENCES experiments ON DELETE CASCADE,
    state text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX experiment_states_experiment ON experiment_states (experiment_id, id);
COMMENT ON TABLE experiment_states IS 'when each experiment came into which state: a paused one holds its queued jobs back';
COMMENT ON INDEX experiment_states_experiment IS 'the history of an experiment';
COMMENT ON COLUMN experiment_states.id IS 'order of the changes';
COMMENT ON COLUMN experiment_states.experiment_id IS 'the experiment';
COMMENT ON COLUMN experiment_states.state IS 'the state from then on; what experiments.state allows';
COMMENT ON COLUMN experiment_states.at IS 'when';

CREATE TABLE worker_states (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    worker_id uuid NOT NULL REFERENCES workers ON DELETE CASCADE,
    slots integer NOT NULL CHECK (slots >= 0),
    at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX worker_states_worker ON worker_states (worker_id, id);
COMMENT ON TABLE worker_states IS 'how many slots each worker brought to the fleet, and when: 0 while it is lost';
COMMENT ON INDEX worker_states_worker IS 'the history of a worker';
COMMENT ON COLUMN worker_states.id IS 'order of the changes';
COMMENT ON COLUMN worker_states.worker_id IS 'the worker';
COMMENT ON COLUMN worker_states.slots IS 'its slots from then on';
COMMENT ON COLUMN worker_states.at IS 'when';

CREATE TABLE skips (
    branch_id uuid NOT NULL REFERENCES branches ON DELETE CASCADE,
    fence bigint NOT NULL,
    batch bigint NOT NULL CHECK (batch >= 0),
    step bigint NOT NULL CHECK (step >= 0),
    reason text NOT NULL CHECK (reason IN ('step_skipped', 'rolled_back')),
    text text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (branch_id, fence, batch)
);
COMMENT ON TABLE skips IS 'the skip ledger: batches of the data order that a branch did not train on';
COMMENT ON COLUMN skips.branch_id IS 'the branch';
COMMENT ON COLUMN skips.fence IS 'fence of the attempt that left it out; superseded with its steps';
COMMENT ON COLUMN skips.batch IS 'number of the batch in the data order';
COMMENT ON COLUMN skips.step IS 'the step that was not taken, or the step that a rollback went back to';
COMMENT ON COLUMN skips.reason IS 'step_skipped: the step counts and nothing took its place; rolled_back: another batch did';
COMMENT ON COLUMN skips.text IS 'what exactly, for people';
COMMENT ON COLUMN skips.at IS 'when it was noted';

CREATE FUNCTION note_job_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO job_states (job_id, state) VALUES (NEW.id, NEW.state);
    RETURN NULL;
END $$;
CREATE TRIGGER job_created AFTER INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION note_job_state();
CREATE TRIGGER job_changed AFTER UPDATE OF state ON jobs FOR EACH ROW WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION note_job_state();

CREATE FUNCTION note_experiment_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO experiment_states (experiment_id, state) VALUES (NEW.id, NEW.state);
    RETURN NULL;
END $$;
CREATE TRIGGER experiment_created AFTER INSERT ON experiments FOR EACH ROW EXECUTE FUNCTION note_experiment_state();
CREATE TRIGGER experiment_changed AFTER UPDATE OF state ON experiments FOR EACH ROW WHEN (OLD.state <> NEW.state)
    EXECUTE FUNCTION note_experiment_state();

CREATE FUNCTION note_worker_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO worker_states (worker_id, slots) VALUES (NEW.id, CASE WHEN NEW.lost THEN 0 ELSE jsonb_array_length(NEW.slots) END);
    RETURN NULL;
END $$;
CREATE TRIGGER worker_enrolled AFTER INSERT ON workers FOR EACH ROW EXECUTE FUNCTION note_worker_state();
CREATE TRIGGER worker_changed AFTER UPDATE OF lost, slots ON workers FOR EACH ROW
    WHEN (OLD.lost <> NEW.lost OR jsonb_array_length(OLD.slots) <> jsonb_array_length(NEW.slots))
    EXECUTE FUNCTION note_worker_state();

-- What was there before this migration: the little that its rows tell.
INSERT INTO job_states (job_id, state, at) SELECT id, 'queued', created_at FROM jobs;
INSERT INTO job_states (job_id, state, at)
    SELECT id, state, COALESCE((SELECT max(a.finished_at) FROM attempts a WHERE a.job_id = jobs.id), created_at) FROM jobs WHERE state <> 'queued';
INSERT INTO experiment_states (experiment_id, state) SELECT id, state FROM experiments;
INSERT INTO worker_states (worker_id, slots) SELECT id, CASE WHEN lost THEN 0 ELSE jsonb_array_length(slots) END FROM workers;
