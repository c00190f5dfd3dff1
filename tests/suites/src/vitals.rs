//! What a process holds and how often it wakes, as /proc tells.

/// A reading of one process, all its threads together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vitals {
    /// Open descriptors, but for files on disk: those are Postgres's to keep open.
    pub files: usize,
    pub threads: usize,
    /// Times that a thread went to sleep by itself: one for each wake-up.
    pub sleeps: u64,
    pub memory_kb: u64,
    /// The most that it ever held.
    pub peak_kb: u64,
}

impl Vitals {
    pub fn of(pid: i32) -> Vitals {
        let list = |what: &str| {
            let entries = std::fs::read_dir(format!("/proc/{pid}/{what}"));
            entries
                .unwrap_or_else(|error| panic!("process {pid}: {error}"))
                .flatten()
        };
        let status = |task: &str, name: &str| -> u64 {
            let text =
                std::fs::read_to_string(format!("/proc/{pid}/{task}status")).unwrap_or_default();
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
                .unwrap_or(0)
        };
        let tasks: Vec<String> = list("task")
            .map(|task| format!("task/{}/", task.file_name().to_string_lossy()))
            .collect();
        Vitals {
            files: list("fd")
                .filter(|file| {
                    let target = std::fs::read_link(file.path()).unwrap_or_default();
                    !target.is_absolute()
                })
                .count(),
            threads: tasks.len(),
            sleeps: tasks
                .iter()
                .map(|task| status(task, "voluntary_ctxt_switches"))
                .sum(),
            memory_kb: status("", "VmRSS"),
            peak_kb: status("", "VmHWM"),
        }
    }
}
