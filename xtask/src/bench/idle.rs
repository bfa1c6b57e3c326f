//! What a workspace uses while no build runs: processor time and memory of its processes, as the kernel counts them.

use std::time::Duration;

use anyhow::{Context, Result};

use super::stage::Stage;

/// How long is looked.
const WATCHED: Duration = Duration::from_secs(5);
/// The kernel's unit of processor time, in seconds: `USER_HZ` is 100 wherever Docker runs.
const TICK: f64 = 0.01;

/// An idle workspace.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    /// Percent of one processor.
    pub cpu: f64,
    /// Resident memory of all its processes, in bytes.
    pub rss: u64,
}

/// Watches a container for some seconds; none when its processes are not this machine's.
///
/// # Errors
/// When the engine cannot list them.
pub fn look(stage: &Stage, container: &str) -> Result<Option<Idle>> {
    let listed = stage.docker(["top", container, "-o", "pid"])?;
    let pids: Vec<&str> = listed.lines().skip(1).map(str::trim).collect();
    let used = || pids.iter().map(|pid| ticks(pid)).sum::<Option<u64>>();
    let Some(before) = used() else { return Ok(None) };
    std::thread::sleep(WATCHED);
    stage.meter.check()?;
    let after = used().context("a process of the idle workspace ended")?;
    let rss = pids.iter().filter_map(|pid| rss(pid)).sum();
    Ok(Some(Idle { cpu: (after - before) as f64 * TICK / WATCHED.as_secs_f64() * 100.0, rss }))
}

/// User and system time of a process: fields 14 and 15 of its `stat`, counted behind the name, which may hold anything.
fn ticks(pid: &str) -> Option<u64> {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().ok()).sum()
}

fn rss(pid: &str) -> Option<u64> {
    let status = fs_err::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_has_memory_and_a_dead_one_has_no_time() {
        let pid = std::process::id().to_string();
        assert!(rss(&pid).unwrap() > 100_000);
        assert!(ticks(&pid).is_some());
        assert_eq!(ticks("0"), None);
    }
}
