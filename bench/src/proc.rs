//! What the kernel says about a process: CPU time, resident memory, cores. Reads `/proc`; Linux only.

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit};
use std::{
    fs,
    process::Command,
    sync::LazyLock,
    time::{Duration, Instant},
};

/// CPU time that the threads of a process have used, in nanoseconds of the scheduler. Threads that ended
/// are not counted; none of ours end while they are watched.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))? {
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        let first = text.split(' ').next().unwrap_or_default();
        total += first.parse::<u64>().context("schedstat")?;
    }
    Ok(Duration::from_nanos(total))
}

/// Resident memory in bytes.
pub(crate) fn rss(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// Keeps a process, all its threads and those to come, on one core; `None`: lets it run on any.
pub(crate) fn pin(pid: u32, core: Option<usize>) -> Result<()> {
    let cores = core.map_or_else(|| "0-".to_owned() + &(cores() - 1).to_string(), |core| core.to_string());
    let pid = pid.to_string();
    let output = Command::new("taskset").args(["-a", "-c", "-p", &cores, &pid]).output();
    let output = output.context("taskset (util-linux)")?;
    ensure!(output.status.success(), "taskset: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// How many cores there are. Read once: a process that is pinned sees one.
pub(crate) fn cores() -> usize {
    static CORES: LazyLock<usize> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));
    *CORES
}

/// Raises the number of open files to what the system allows, for this process and its children.
pub(crate) fn raise_files(needed: u64) -> Result<()> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    ensure!(most >= needed, "open files: {needed} are needed, the hard limit is {most}");
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, raised).context("setrlimit")
}

/// How many files this process may open.
pub(crate) fn files() -> u64 {
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// CPU time of several processes over the same stretch of time.
pub(crate) struct Watch {
    started: Instant,
    before: Vec<(u32, Duration)>,
}

impl Watch {
    /// Begins.
    pub(crate) fn begin(pids: &[u32]) -> Result<Self> {
        let before = pids.iter().map(|pid| Ok((*pid, cpu(*pid)?))).collect::<Result<_>>()?;
        Ok(Self { started: Instant::now(), before })
    }

    /// Ends; answers the time that went by, and the CPU time of each process.
    pub(crate) fn end(self) -> Result<(Duration, Vec<Duration>)> {
        let elapsed = self.started.elapsed();
        let used = self.before.iter().map(|(pid, before)| Ok(cpu(*pid)?.saturating_sub(*before)));
        Ok((elapsed, used.collect::<Result<_>>()?))
    }
}

/// Watches one process for a while; answers its CPU-µs per second.
pub(crate) async fn idle(pid: u32, during: Duration) -> Result<f64> {
    let watch = Watch::begin(&[pid])?;
    tokio::time::sleep(during).await;
    let (elapsed, used) = watch.end()?;
    Ok(micros(used[0]) / elapsed.as_secs_f64())
}

/// A duration in microseconds.
pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
