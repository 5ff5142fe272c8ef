-- A branch that rolled back has two checkpoints of one step and fence: the latter leaves a batch out. Which one is the
-- last is a matter of when it was committed.
ALTER TABLE checkpoints DROP CONSTRAINT checkpoints_branch_id_step_fence_key;
CREATE INDEX checkpoints_branch ON checkpoints (branch_id, created_at);
COMMENT ON INDEX checkpoints_branch IS 'the last checkpoint of a branch';
