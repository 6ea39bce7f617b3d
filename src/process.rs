//! What the kernel says of this process, for `process_*`.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// CPU, memory and descriptors of this process.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    pub cpu_seconds: f64,
    pub virtual_memory_bytes: u64,
    pub resident_memory_bytes: u64,
    pub open_fds: u64,
    /// `None` where there is no limit.
    pub max_fds: Option<u64>,
    /// Seconds since the epoch.
    pub start_time: f64,
}

impl Process {
    /// Reads `/proc`. There is none on other systems, and then there are no such series.
    pub fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The name of the program stands in parentheses and may contain anything.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<_> = fields.split_ascii_whitespace().collect();
        // Numbered from 1 in proc(5), where the third comes after the name.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        let seconds = |n: u64| n as f64 / ticks as f64;
        let page = rustix::param::page_size() as u64;
        Some(Self {
            cpu_seconds: seconds(field(14)? + field(15)?),
            virtual_memory_bytes: field(23)?,
            resident_memory_bytes: field(24)? * page,
            // One of them is the folder that is being read.
            open_fds: fs::read_dir("/proc/self/fd")
                .ok()?
                .count()
                .saturating_sub(1) as u64,
            max_fds: getrlimit(Resource::Nofile).current,
            start_time: boot_time()? + seconds(field(22)?),
        })
    }
}

/// When the machine was started, in seconds since the epoch.
fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_process() {
        let process = Process::read().unwrap();
        assert!(process.resident_memory_bytes > 1_000_000);
        assert!(process.virtual_memory_bytes >= process.resident_memory_bytes);
        assert!(process.open_fds >= 3);
        let now = jiff::Timestamp::now().as_second() as f64;
        assert!(process.start_time <= now + 1.0 && process.start_time > now - 86_400.0);
    }
}
