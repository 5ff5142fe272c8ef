//! What is believed of a worker's readings, and how finely they are drawn. Pure.

use senmon_protocol::{problem::Fault, readings::Readings};

/// Milliseconds of the finest reading.
pub const MINUTE_MS: u64 = 60_000;
/// Most devices of a worker.
const DEVICES_MAX: usize = 64;
/// Nothing that is read here is larger: bytes, bytes a second, watts.
const VALUE_MAX: f64 = 1e18;

/// What is wrong with readings, all of it.
#[must_use]
pub fn faults(readings: &Readings) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut within = |path: String, value: Option<f64>, (low, high): (f64, f64)| {
        if let Some(value) = value.filter(|value| !(low..=high).contains(value)) {
            faults.push(Fault::new(path, format!("found {value}, expected {low} to {high}")));
        }
    };
    let (share, size) = ((0.0, 1.0), (0.0, VALUE_MAX));
    within("cpu_share".into(), readings.cpu_share, share);
    for (path, value) in [
        ("memory_used_bytes", readings.memory_used_bytes),
        ("memory_bytes", readings.memory_bytes),
        ("received_bytes_per_second", readings.received_bytes_per_second),
        ("sent_bytes_per_second", readings.sent_bytes_per_second),
        ("read_bytes_per_second", readings.read_bytes_per_second),
        ("written_bytes_per_second", readings.written_bytes_per_second),
    ] {
        within(path.into(), value, size);
    }
    for (i, device) in readings.devices.iter().take(DEVICES_MAX).enumerate() {
        within(format!("devices[{i}].utilisation"), device.utilisation, share);
        within(format!("devices[{i}].memory_used_bytes"), device.memory_used_bytes, size);
        within(format!("devices[{i}].memory_bytes"), device.memory_bytes, size);
        within(format!("devices[{i}].celsius"), device.celsius, (-273.15, 1000.0));
        within(format!("devices[{i}].watts"), device.watts, size);
        within(format!("devices[{i}].throttled"), device.throttled, share);
        within(format!("devices[{i}].ecc_uncorrected"), device.ecc_uncorrected, size);
    }
    for (i, device) in readings.devices.iter().take(DEVICES_MAX).enumerate() {
        let number = device.device.strip_prefix("cuda:").and_then(|number| number.parse::<u16>().ok());
        if number.is_none_or(|number| device.device != format!("cuda:{number}")) {
            let found: String = device.device.chars().take(100).collect();
            faults.push(Fault::new(format!("devices[{i}].device"), format!("found {found:?}, expected cuda:N")));
        }
    }
    if readings.devices.len() > DEVICES_MAX {
        let found = readings.devices.len();
        faults.push(Fault::new("devices", format!("found {found}, expected at most {DEVICES_MAX}")));
    }
    faults
}

/// Minutes of a point, so that so much time has at most so many points.
#[must_use]
pub fn minutes_of(span_ms: i64, points_max: i64) -> i32 {
    let minutes = u64::try_from(span_ms).unwrap_or(0).div_ceil(MINUTE_MS);
    // One more than fit, because the first point may begin before the time that is asked for.
    let each = minutes.div_ceil(u64::try_from(points_max - 1).unwrap_or(1).max(1));
    i32::try_from(each.max(1)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use senmon_protocol::readings::DeviceReading;

    #[test]
    fn what_no_machine_can_be_is_refused_by_name() {
        assert_eq!(faults(&Readings::default()), []);
        let device = |name: &str| DeviceReading { device: name.into(), ..DeviceReading::default() };
        let odd = Readings {
            cpu_share: Some(1.5),
            memory_bytes: Some(-1.0),
            devices: vec![
                device("cuda:0"),
                device("cuda:07"),
                DeviceReading { celsius: Some(1e9), ..device("cuda:1") },
            ],
            ..Readings::default()
        };
        let found: Vec<String> = faults(&odd).into_iter().map(|fault| fault.path).collect();
        assert_eq!(found, ["cpu_share", "memory_bytes", "devices[2].celsius", "devices[1].device"]);
        let many = Readings { devices: vec![device("cuda:0"); 65], ..Readings::default() };
        assert_eq!(faults(&many)[0].path, "devices");
    }

    #[test]
    fn a_day_is_drawn_in_no_more_points_than_are_asked_for() {
        let day = 24 * 60 * 60_000;
        assert_eq!([minutes_of(day, 1000), minutes_of(day, 10_000), minutes_of(30 * day, 1000)], [2, 1, 44]);
        assert_eq!([minutes_of(0, 1000), minutes_of(-5, 1000), minutes_of(i64::MAX, 1)], [1, 1, i32::MAX]);
    }
}
