//! As much DER as breaking a rule needs.

/// The element with this tag, whose value is `parts`, one after the other.
pub(crate) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let value = parts.concat();
    let length = match value.len() {
        short @ 0..=0x7f => vec![short as u8],
        medium @ 0x80..=0xff => vec![0x81, medium as u8],
        long => vec![0x82, (long >> 8) as u8, long as u8],
    };
    [&[tag], &length[..], &value].concat()
}

/// An element's value.
pub(crate) fn value(element: &[u8]) -> &[u8] {
    let (start, length) = header(element);
    &element[start..start + length]
}

/// The whole elements that follow each other in `bytes`.
pub(crate) fn elements(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (start, length) = header(bytes);
        let (element, rest) = bytes.split_at(start + length);
        found.push(element.to_vec());
        bytes = rest;
    }
    found
}

fn header(element: &[u8]) -> (usize, usize) {
    match element[1] {
        0x81 => (3, usize::from(element[2])),
        0x82 => (4, usize::from(element[2]) << 8 | usize::from(element[3])),
        short => (2, usize::from(short)),
    }
}

/// A TBSCertificate taken apart: its fields as whole elements, its extensions too.
pub(crate) struct Tbs {
    pub(crate) fields: Vec<Vec<u8>>,
    pub(crate) extensions: Vec<Vec<u8>>,
}

impl Tbs {
    pub(crate) fn parse(tbs: &[u8]) -> Self {
        let mut fields = elements(value(tbs));
        let extensions = fields.pop().unwrap();
        Self { fields, extensions: elements(value(value(&extensions))) }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let extensions = element(0x30, &[&self.extensions.concat()]);
        element(0x30, &[&self.fields.concat(), &element(0xa3, &[&extensions])])
    }

    /// Replaces the content octets of the serial number.
    pub(crate) fn set_serial(&mut self, content: &[u8]) {
        self.fields[1] = element(0x02, &[content]);
    }
}
