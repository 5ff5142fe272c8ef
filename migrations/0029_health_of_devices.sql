-- How well a device is, beside how it is used.
ALTER TABLE readings ADD COLUMN throttled real, ADD COLUMN ecc_uncorrected real;
COMMENT ON COLUMN readings.throttled IS 'share of the time in which heat or power held a device''s clocks back, 0 to 1';
COMMENT ON COLUMN readings.ecc_uncorrected IS 'errors of a device''s memory that could not be corrected, since its driver was loaded';
