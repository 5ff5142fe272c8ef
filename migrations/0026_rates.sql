-- How fast work goes, from all that was ever measured: what plans and forecasts stand on.

ALTER TABLE experiments ADD COLUMN model jsonb;
COMMENT ON COLUMN experiments.model IS 'Shape of the model that it trains, as known when it was submitted';

CREATE TABLE rates (
    kind text NOT NULL,
    shape text NOT NULL,
    device text NOT NULL,
    slots integer NOT NULL CHECK (slots > 0),
    parameters bigint NOT NULL,
    flops double precision NOT NULL,
    precision text NOT NULL,
    units double precision NOT NULL CHECK (units >= 0),
    seconds double precision NOT NULL CHECK (seconds >= 0),
    jobs double precision NOT NULL,
    overhead_seconds double precision NOT NULL,
    measured_at timestamptz NOT NULL,
    PRIMARY KEY (kind, shape, device, slots)
);
COMMENT ON TABLE rates IS 'units and seconds of attempts by what they did and where; the older fade';
COMMENT ON COLUMN rates.kind IS 'kind of job';
COMMENT ON COLUMN rates.shape IS 'key of the model, window and number format; empty for work without a model';
COMMENT ON COLUMN rates.device IS 'name of the device';
COMMENT ON COLUMN rates.slots IS 'slots of one job';
COMMENT ON COLUMN rates.parameters IS 'parameters of the model';
COMMENT ON COLUMN rates.flops IS 'FLOPs to train on one token';
COMMENT ON COLUMN rates.precision IS 'number format';
COMMENT ON COLUMN rates.units IS 'tokens trained or scored, bytes of text, tokens of all members of an ensemble';
COMMENT ON COLUMN rates.seconds IS 'seconds that they took';
COMMENT ON COLUMN rates.jobs IS 'jobs that were counted';
COMMENT ON COLUMN rates.overhead_seconds IS 'seconds of these jobs beside the work';
COMMENT ON COLUMN rates.measured_at IS 'end of the last attempt that was counted';
