-- Held-out documents are compared with the training text before they are scored.
ALTER TABLE jobs DROP CONSTRAINT jobs_kind_check;
ALTER TABLE jobs ADD CONSTRAINT jobs_kind_check
    CHECK (kind IN ('shard', 'train', 'evaluate', 'merge', 'ensemble', 'decontaminate'));

ALTER TABLE experiments ADD COLUMN held_out jsonb;
COMMENT ON COLUMN experiments.held_out IS 'HeldOutSummary, once the documents to score are listed';
