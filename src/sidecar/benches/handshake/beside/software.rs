//! How each proxy is told what all of them are to do.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::forwarder::MODE;

/// A program to measure.
pub(crate) struct Peer {
    pub(crate) software: Software,
    pub(crate) program: PathBuf,
}

#[derive(Clone, Copy)]
pub(crate) enum Software {
    Countersign,
    Envoy,
    Ghostunnel,
    Nginx,
}

/// Those of `--beside NAME=PATH`, which may be repeated.
pub(crate) fn peers(arguments: &[String]) -> Result<Vec<Peer>, String> {
    let mut peers = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--beside" => peers.push(peer(arguments.next().map_or("", String::as_str))?),
            // cargo says that it is a benchmark.
            "--bench" => {}
            other => return Err(format!("{other}: the only option is --beside {NAMES}")),
        }
    }
    Ok(peers)
}

fn peer(text: &str) -> Result<Peer, String> {
    let (name, program) = text.split_once('=').unwrap_or((text, ""));
    let software = match name {
        "envoy" => Software::Envoy,
        "ghostunnel" => Software::Ghostunnel,
        "nginx" => Software::Nginx,
        _ => return Err(format!("--beside takes {NAMES}, not {text:?}")),
    };
    match fs::canonicalize(program) {
        Ok(program) if program.is_file() => Ok(Peer { software, program }),
        _ => Err(format!("--beside {name}: there is no program at {program:?}")),
    }
}

impl Software {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Countersign => "Listener, forwarding",
            Self::Envoy => "envoy",
            Self::Ghostunnel => "ghostunnel",
            Self::Nginx => "nginx stream",
        }
    }

    /// The command that serves an address, and forwards to a backend, with the files of a folder.
    pub(crate) fn command(
        self,
        program: &Path,
        address: SocketAddr,
        backend: SocketAddr,
        folder: &Path,
    ) -> Command {
        let mut command = Command::new(program);
        let filled = |template| fill(template, address, backend, folder);
        match self {
            Self::Countersign => {
                command.args([MODE, &address.to_string(), &backend.to_string()]).arg(folder)
            }
            Self::Envoy => {
                let config = folder.join("envoy.yaml");
                fs::write(&config, filled(include_str!("envoy.yaml"))).unwrap();
                command.arg("-c").arg(config);
                command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "off"])
            }
            Self::Ghostunnel => {
                command.env("GOMAXPROCS", "1").args(filled(GHOSTUNNEL).split_whitespace())
            }
            Self::Nginx => {
                let module = if has_dynamic_stream(program) { LOAD_MODULE } else { "" };
                let config = folder.join("nginx.conf");
                let text = format!("{module}{}", filled(include_str!("nginx.conf")));
                fs::write(&config, text).unwrap();
                command.args(["-e", "stderr", "-c"]).arg(config)
            }
        };
        command
    }
}

/// A configuration with everything in its place.
fn fill(template: &str, address: SocketAddr, backend: SocketAddr, folder: &Path) -> String {
    let peer = fs::read_to_string(folder.join("peer")).unwrap();
    let values = [
        ("{port}", address.port().to_string()),
        ("{backend}", backend.port().to_string()),
        ("{folder}", folder.display().to_string()),
        ("{peer}", peer),
    ];
    values.iter().fold(template.to_owned(), |text, (name, value)| text.replace(name, value))
}

fn has_dynamic_stream(nginx: &Path) -> bool {
    let said = Command::new(nginx).arg("-V").output().unwrap();
    String::from_utf8_lossy(&said.stderr).contains("--with-stream=dynamic")
}

const NAMES: &str = "envoy=PATH, ghostunnel=PATH or nginx=PATH";
const LOAD_MODULE: &str = "load_module modules/ngx_stream_module.so;\n";
const GHOSTUNNEL: &str = "server --listen 127.0.0.1:{port} --target 127.0.0.1:{backend} \
     --cert {folder}/svid.pem --key {folder}/svid.key --cacert {folder}/bundle.pem \
     --allow-uri {peer} --max-tls-version TLS1.3 --quiet all";
