//! Frames of HTTP/2, as few as an attack needs (RFC 9113 §4.1, RFC 7541 §6).

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The client's preface, then its settings: identifier and value.
pub(crate) fn preface(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (identifier, value) in settings {
        payload.extend_from_slice(&identifier.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &payload));
    bytes
}

/// A frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0xff_ffff).to_be_bytes();
    let mut bytes = Vec::with_capacity(9 + payload.len());
    bytes.extend_from_slice(&length[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// HEADERS of a `GET`, whole.
pub(crate) fn ask(path: &str, stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields(GET, path))
}

/// HEADERS of a `POST` whose body follows.
pub(crate) fn begin_post(path: &str, stream: u32, length: usize) -> Vec<u8> {
    let mut block = fields(POST, path);
    // Literal without indexing, name by the static table (RFC 7541 §6.2.2): content-length is 28.
    block.extend_from_slice(&[0x0f, 28 - 15]);
    text(&length.to_string(), &mut block);
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// Reads a frame and answers a ping; returns by how much the connection's window grew.
pub(crate) async fn obey(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<usize> {
    let mut header = [0; 9];
    stream.read_exact(&mut header).await?;
    let [high, middle, low, kind, flags, number @ ..] = header;
    let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
    stream.read_exact(&mut payload).await?;
    if kind == PING && flags & ACK == 0 {
        stream.write_all(&frame(PING, ACK, 0, &payload)).await?;
        stream.flush().await?;
    }
    let grown: Option<[u8; 4]> = payload.try_into().ok().filter(|_| kind == WINDOW_UPDATE);
    let grown = grown.filter(|_| number == [0; 4]).map(u32::from_be_bytes);
    Ok(grown.map_or(0, |grown| grown as usize))
}

/// The fields that every request has.
pub(crate) fn fields(method: u8, path: &str) -> Vec<u8> {
    // `:scheme` https is 7, `:path` 4, `:authority` 1.
    let mut block = vec![method, 0x87, 0x04];
    text(path, &mut block);
    block.push(0x01);
    text("ca", &mut block);
    block
}

/// A field of any name, literal and without indexing (RFC 7541 §6.2.2).
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0];
    text(name, &mut block);
    text(value, &mut block);
    block
}

/// A string without Huffman's code, its length in the way of RFC 7541 §5.1.
fn text(text: &str, block: &mut Vec<u8>) {
    let mut length = text.len();
    if length < 127 {
        block.push(length as u8);
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push((length % 128 + 128) as u8);
            length /= 128;
        }
        block.push(length as u8);
    }
    block.extend_from_slice(text.as_bytes());
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// What a connection may send before it is told otherwise (RFC 9113 §6.9.2).
pub(crate) const FIRST_WINDOW: usize = 65_535;
/// SETTINGS_INITIAL_WINDOW_SIZE.
pub(crate) const INITIAL_WINDOW: u16 = 4;

/// `:method` in the static table.
pub(crate) const GET: u8 = 0x82;
pub(crate) const POST: u8 = 0x83;
