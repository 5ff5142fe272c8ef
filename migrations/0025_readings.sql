-- How workers' machines and devices were, minute by minute: compact, thinned after two days, gone after a while.
CREATE TABLE readings (
    worker_id uuid NOT NULL REFERENCES workers ON DELETE CASCADE,
    source text NOT NULL,
    minutes smallint NOT NULL CHECK (minutes IN (1, 15)),
    at timestamptz NOT NULL,
    share real,
    memory_used_bytes real,
    memory_bytes real,
    received_bytes real,
    sent_bytes real,
    read_bytes real,
    written_bytes real,
    celsius real,
    watts real,
    PRIMARY KEY (worker_id, source, minutes, at)
);
CREATE INDEX readings_age ON readings (minutes, at);
COMMENT ON TABLE readings IS 'use of workers'' machines and devices over time; at most one row a source and minute';
COMMENT ON COLUMN readings.worker_id IS 'the worker';
COMMENT ON COLUMN readings.source IS 'machine, or a device of it: cuda:0';
COMMENT ON COLUMN readings.minutes IS 'how much time the row stands for';
COMMENT ON COLUMN readings.at IS 'when that time begins, by the database''s clock';
COMMENT ON COLUMN readings.share IS 'mean share of CPU or device in use, 0 to 1';
COMMENT ON COLUMN readings.memory_used_bytes IS 'mean memory in use';
COMMENT ON COLUMN readings.memory_bytes IS 'memory in all';
COMMENT ON COLUMN readings.received_bytes IS 'bytes a second from the network, of a machine';
COMMENT ON COLUMN readings.sent_bytes IS 'bytes a second to the network, of a machine';
COMMENT ON COLUMN readings.read_bytes IS 'bytes a second from its disks, of a machine';
COMMENT ON COLUMN readings.written_bytes IS 'bytes a second to its disks, of a machine';
COMMENT ON COLUMN readings.celsius IS 'temperature of a device';
COMMENT ON COLUMN readings.watts IS 'power of a device';
COMMENT ON INDEX readings_age IS 'what is thinned or removed next';
