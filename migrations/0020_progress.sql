-- Nothing runs for ever without a word: what an experiment waits for, since when it makes no progress, and what a loop
-- could not do. Evaluations are known by what they evaluate.
CREATE TABLE progress (
    experiment_id uuid PRIMARY KEY REFERENCES experiments ON DELETE CASCADE,
    mark bigint NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    waits_for text,
    stalled_at timestamptz
) WITH (fillfactor = 70);
COMMENT ON TABLE progress IS 'how experiments get on, apart from their wide rows: it changes often';
COMMENT ON COLUMN progress.experiment_id IS 'the experiment';
COMMENT ON COLUMN progress.mark IS 'most units of all stages and jobs that were ever done at once';
COMMENT ON COLUMN progress.made_at IS 'when the mark was last noted to be higher than before';
COMMENT ON COLUMN progress.waits_for IS 'what it waits for, in a sentence';
COMMENT ON COLUMN progress.stalled_at IS 'when people were told that it makes no progress; null while it does';

CREATE TABLE troubles (
    kind text NOT NULL CHECK (kind IN ('experiment', 'corpus', 'clustering', 'tokenizer', 'branch', 'checkpoint')),
    id uuid NOT NULL,
    tries integer NOT NULL CHECK (tries > 0),
    problem text NOT NULL,
    tried_at timestamptz NOT NULL DEFAULT now(),
    set_aside_at timestamptz,
    PRIMARY KEY (kind, id)
);
COMMENT ON TABLE troubles IS 'what the server''s loops could not do something with, by failures in a row';
COMMENT ON COLUMN troubles.kind IS 'what it is';
COMMENT ON COLUMN troubles.id IS 'which one';
COMMENT ON COLUMN troubles.tries IS 'failures in a row';
COMMENT ON COLUMN troubles.problem IS 'the last one';
COMMENT ON COLUMN troubles.tried_at IS 'when it was last tried';
COMMENT ON COLUMN troubles.set_aside_at IS 'when it was set aside: not tried again before somebody asks';

-- Asked for without a job, by a server that was killed in between: asked for anew.
DELETE FROM evaluations v WHERE result IS NULL AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.evaluation_id = v.id);
ALTER TABLE evaluations ADD COLUMN repeat integer CHECK (repeat >= 0);
UPDATE evaluations SET repeat = CASE WHEN title = 'ensemble' THEN 0 ELSE substring(title FROM '^ensemble~([0-9]{1,6})$')::integer - 1 END
    WHERE checkpoint_id IS NULL;
COMMENT ON COLUMN evaluations.repeat IS 'the repeat whose models are used together; null for scores of one checkpoint';
COMMENT ON COLUMN evaluations.title IS 'for people: the branch''s name, or ensemble and which repeat';
ALTER TABLE evaluations DROP CONSTRAINT evaluations_experiment_id_title_key;
CREATE UNIQUE INDEX evaluations_of_checkpoint ON evaluations (experiment_id, checkpoint_id) WHERE checkpoint_id IS NOT NULL;
COMMENT ON INDEX evaluations_of_checkpoint IS 'a checkpoint is scored once';
CREATE UNIQUE INDEX evaluations_of_repeat ON evaluations (experiment_id, repeat) WHERE repeat IS NOT NULL;
COMMENT ON INDEX evaluations_of_repeat IS 'the models of a repeat are compared once';
