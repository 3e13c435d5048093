//! What this process and its threads use.

use std::fs;
use std::path::PathBuf;
use std::sync::mpsc;

use tokio::runtime::{Builder, Runtime};

pub(crate) fn describe_machine() {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name\t: "));
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    println!("machine     {}, load average {}", model.unwrap_or("unknown"), load.trim());
}

/// Something whose use of the processor can be read from outside.
pub(crate) trait Metered {
    /// Microseconds on a processor so far: what others do meanwhile does not count.
    fn micros(&self) -> f64;
}

/// A thread of this process.
pub(crate) struct Thread(PathBuf);

/// Any process, by its number.
pub(crate) struct Process(pub(crate) u32);

impl Thread {
    pub(crate) fn this() -> Self {
        Self(PathBuf::from("/proc").join(fs::read_link("/proc/thread-self").unwrap()))
    }
}

impl Metered for Thread {
    fn micros(&self) -> f64 {
        // A thread that runs is accounted for every few milliseconds, and whenever it gives way.
        std::thread::yield_now();
        let stat = fs::read_to_string(self.0.join("schedstat")).unwrap();
        stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1000.0
    }
}

impl Process {
    /// KiB of memory in use.
    pub(crate) fn resident(&self) -> f64 {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.0)).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4.0
    }
}

impl Metered for Process {
    /// The sum of its threads, user and system: to the nanosecond, where `stat` counts in 10 ms.
    fn micros(&self) -> f64 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.0)).unwrap();
        threads.map(|thread| Thread(thread.unwrap().path()).micros()).sum()
    }
}

/// Runs `serve` in a thread with a runtime of its own, until the process ends. It sends one value
/// when it is ready.
pub(crate) fn in_thread<T, F>(
    serve: impl FnOnce(mpsc::Sender<T>) -> F + Send + 'static,
) -> (Thread, T)
where
    T: Send + 'static,
    F: Future<Output = ()>,
{
    let (thread, threads) = mpsc::channel();
    let (ready, values) = mpsc::channel();
    std::thread::spawn(move || {
        thread.send(Thread::this()).unwrap();
        runtime().block_on(serve(ready));
    });
    (threads.recv().unwrap(), values.recv().unwrap())
}

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
