-- How far the points of a job's present fence are compacted stands in the job's own row: who holds its lock knows it,
-- and a group of batches is judged, stored and committed by one statement.
ALTER TABLE jobs ADD COLUMN compacted_to bigint NOT NULL DEFAULT -1;
COMMENT ON COLUMN jobs.compacted_to IS 'last step of the present fence whose points lie in a chunk; -1 before there is one';
UPDATE jobs j SET compacted_to = c.step_last
    FROM (SELECT branch_id, fence, max(step_last) AS step_last FROM metric_chunks WHERE level = 0 GROUP BY branch_id, fence) c
    WHERE c.branch_id = j.branch_id AND c.fence = j.fence;
