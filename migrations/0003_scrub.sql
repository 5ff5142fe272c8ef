-- Committed checkpoints are read again from time to time; a damaged one is set aside.
ALTER TABLE checkpoints ADD COLUMN verified_at timestamptz, ADD COLUMN problem text;
COMMENT ON COLUMN checkpoints.verified_at IS 'when its files were last read and compared with the manifest; null: to be read next';
COMMENT ON COLUMN checkpoints.problem IS 'the file that is missing or altered, and how; no branch resumes from such a checkpoint';
CREATE INDEX checkpoints_verified ON checkpoints (verified_at NULLS FIRST, created_at) WHERE problem IS NULL;
COMMENT ON INDEX checkpoints_verified IS 'which one to read next';
