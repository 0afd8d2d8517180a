//! The process itself, in the words of Prometheus' client libraries (process_*), and which version it is.

use std::fmt;
use std::fs;

use fram_machinery::Value;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::discovery;

#[derive(Debug)]
pub(crate) struct Process;

/// What /proc tells; see proc_pid_stat(5) and proc_pid_status(5).
#[derive(Debug, PartialEq)]
struct Looked {
    /// Seconds.
    cpu: f64,
    /// Seconds since 1970.
    started: f64,
    /// Bytes.
    virtual_memory: f64,
    resident_memory: f64,
}

/// Clock ticks in a second: the kernel tells user space so, whatever it counts in.
const TICKS: f64 = 100.0;

fn parse(stat: &str, status: &str, machine: &str) -> Option<Looked> {
    // The name stands in parentheses, and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // The third field is the first one behind the name.
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let booted = machine.lines().find_map(|line| line.strip_prefix("btime "))?.parse::<f64>().ok()?;
    let kilobytes = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    Some(Looked {
        cpu: (field(14)? + field(15)?) / TICKS,
        started: booted + field(22)? / TICKS,
        virtual_memory: kilobytes("VmSize:")? * 1024.0,
        resident_memory: kilobytes("VmRSS:")? * 1024.0,
    })
}

fn look() -> Option<Looked> {
    let read = |path| fs::read_to_string(path).ok();
    parse(&read("/proc/self/stat")?, &read("/proc/self/status")?, &read("/proc/stat")?)
}

/// When the process began, alone: upstream shows it wherever it shows anything.
#[derive(Debug)]
pub(crate) struct Started;

impl Collector for Started {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        look().map_or(Ok(()), |looked| started(&mut encoder, &looked))
    }
}

fn started(encoder: &mut DescriptorEncoder<'_>, looked: &Looked) -> fmt::Result {
    let about = "Start time of the process since unix epoch in seconds.";
    let started = encoder.encode_descriptor("process_start_time_seconds", about, None, MetricType::Gauge)?;
    ConstGauge::new(looked.started).encode(started)
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let version = discovery::version();
        let told = |field: &str| version.get(field).and_then(Value::as_str).unwrap_or_default().to_string();
        let labels =
            [("major", told("major")), ("minor", told("minor")), ("git_version", told("gitVersion")), ("platform", told("platform"))];
        let about = "A metric with a constant '1' value labeled by major, minor, git version and platform from which Kubernetes was built";
        let mut build = encoder.encode_descriptor("kubernetes_build_info", about, None, MetricType::Gauge)?;
        ConstGauge::new(1_i64).encode(build.encode_family(&labels)?)?;
        // Where /proc is not mounted nothing is known, and nothing said.
        let Some(looked) = look() else { return Ok(()) };
        let about = "Total user and system CPU time spent in seconds.";
        ConstCounter::new(looked.cpu).encode(encoder.encode_descriptor("process_cpu_seconds", about, None, MetricType::Counter)?)?;
        let gauges = [
            ("process_resident_memory_bytes", "Resident memory size in bytes.", looked.resident_memory),
            ("process_virtual_memory_bytes", "Virtual memory size in bytes.", looked.virtual_memory),
        ];
        for (name, about, value) in gauges {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, about, None, MetricType::Gauge)?)?;
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            let about = "Number of open file descriptors.";
            // The look itself has one open.
            let open = i64::try_from(open.count()).unwrap_or(i64::MAX) - 1;
            ConstGauge::new(open).encode(encoder.encode_descriptor("process_open_fds", about, None, MetricType::Gauge)?)?;
        }
        started(&mut encoder, &looked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_behind_the_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 1200 4096000 300 18446744073709551615";
        let (status, machine) = ("Name:\ta) b\nVmSize:\t    4000 kB\nVmRSS:\t    1200 kB\n", "cpu 1 2\nbtime 1000\n");
        let expect = Looked { cpu: 3.0, started: 1012.0, virtual_memory: 4_096_000.0, resident_memory: 1_228_800.0 };
        assert_eq!(parse(stat, status, machine), Some(expect));
        assert_eq!(parse("7 (a) S", status, machine), None);
        let looked = look().unwrap();
        assert!(looked.resident_memory > 1e6 && looked.virtual_memory > looked.resident_memory, "{looked:?}");
    }
}
