//! `serve`: runs the CA until it is told to stop.

use std::sync::mpsc;

use clap::Args;

use crate::ca_host::{self, ConfigFile};
use crate::carried::{carried, keep_config};
use crate::diagnostics::LogFormat;
use crate::exit::Exit;
use crate::session::Session;

/// Which CA to run.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// The form of diagnostics, on stderr
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

pub(crate) async fn run(arguments: Arguments, session: &Session) -> anyhow::Result<Exit> {
    ca_host::survive_file_size_limit()?;
    // Before the database is opened, which with too few files looks damaged.
    server::Capacity::raise().require_enough()?;
    let config = arguments.config.load()?;
    keep_config(&arguments.config.config);
    ca_host::warn_of_writers(&config, session.output);
    let passphrase = arguments.config.passphrase(&config)?;
    let opened = ca_host::open(&config, &passphrase, &session.output).await;
    let authority = opened.map_err(|error| arguments.config.blame(&config, error))?;
    let stop = ca_host::stop_signal()?;
    let end = end_in_time()?;
    tokio::pin!(stop);
    let started = tokio::select! {
        signal = &mut stop => {
            end.begin();
            session.output.note(format!("{signal}: it had not begun"));
            return Ok(Exit::Done);
        }
        started = server::start(authority, &config, carried) => started,
    };
    let mut running = started?;
    session.output.note(format!(
        "serving https://{}   admin http://{}",
        running.address, running.admin_address
    ));
    if config.listen.port() == 0 {
        let url = config.url(running.address.port());
        session.output.note(format!("commands find it by: --url {url}"));
    }
    tokio::select! {
        signal = &mut stop => {
            end.begin();
            session.output.note(format!("{signal}: finishing requests in flight"));
            let drained = running.stop().await;
            session.output.note(format!("drained {}, cut {}", drained.drained, drained.cut));
            Ok(Exit::Done)
        }
        () = running.ended() => Ok(Exit::Failed),
    }
}

/// The process ends in time once a signal has said so, whatever hangs below all that can be waited for: a
/// disk that does not answer while the database is closed, a stderr that nobody reads. So it says nothing
/// itself; and its thread is there from the start, lest there be none to be had at the end.
struct End(mpsc::Sender<()>);

impl End {
    fn begin(&self) {
        // It waits for as long as this is there.
        let _ = self.0.send(());
    }
}

fn end_in_time() -> std::io::Result<End> {
    let (begin, begun) = mpsc::channel();
    let end = move || {
        if begun.recv().is_ok() {
            std::thread::sleep(server::STOPPED_WITHIN);
            std::process::exit(Exit::Failed as i32);
        }
    };
    std::thread::Builder::new().name("end".to_owned()).spawn(end)?;
    Ok(End(begin))
}
