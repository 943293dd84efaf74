//! Packets of the SSH file transfer protocol, version 3, with OpenSSH's extensions. Names are bytes.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

pub(in crate::host::ssh) const INIT: u8 = 1;
pub(in crate::host::ssh) const VERSION: u8 = 2;
pub(in crate::host::ssh) const OPEN: u8 = 3;
pub(in crate::host::ssh) const CLOSE: u8 = 4;
pub(in crate::host::ssh) const READ: u8 = 5;
pub(in crate::host::ssh) const WRITE: u8 = 6;
pub(in crate::host::ssh) const LSTAT: u8 = 7;
pub(in crate::host::ssh) const FSTAT: u8 = 8;
pub(in crate::host::ssh) const SETSTAT: u8 = 9;
pub(in crate::host::ssh) const FSETSTAT: u8 = 10;
pub(in crate::host::ssh) const OPENDIR: u8 = 11;
pub(in crate::host::ssh) const READDIR: u8 = 12;
pub(in crate::host::ssh) const REMOVE: u8 = 13;
pub(in crate::host::ssh) const MKDIR: u8 = 14;
pub(in crate::host::ssh) const RMDIR: u8 = 15;
pub(in crate::host::ssh) const REALPATH: u8 = 16;
pub(in crate::host::ssh) const STAT: u8 = 17;
pub(in crate::host::ssh) const RENAME: u8 = 18;
pub(in crate::host::ssh) const READLINK: u8 = 19;
pub(in crate::host::ssh) const EXTENDED: u8 = 200;

const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED_REPLY: u8 = 201;

/// Answers of a server.
pub(in crate::host::ssh) mod code {
    pub(in crate::host::ssh) const OK: u32 = 0;
    pub(in crate::host::ssh) const END: u32 = 1;
    pub(in crate::host::ssh) const NO_SUCH_FILE: u32 = 2;
    pub(in crate::host::ssh) const PERMISSION_DENIED: u32 = 3;
    pub(in crate::host::ssh) const FAILURE: u32 = 4;
    pub(in crate::host::ssh) const BAD_MESSAGE: u32 = 5;
    pub(in crate::host::ssh) const UNSUPPORTED: u32 = 8;
}

/// How a file is opened.
pub(in crate::host::ssh) mod open {
    pub(in crate::host::ssh) const READ: u32 = 1;
    pub(in crate::host::ssh) const WRITE: u32 = 2;
    pub(in crate::host::ssh) const CREATE: u32 = 8;
}

const HAS_SIZE: u32 = 1;
const HAS_OWNER: u32 = 2;
const HAS_MODE: u32 = 4;
const HAS_TIMES: u32 = 8;
const HAS_MORE: u32 = 0x8000_0000;

/// What a server tells of an entry; what it does not tell is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::host::ssh) struct Attributes {
    /// Bytes.
    pub(in crate::host::ssh) size: u64,
    /// User and group.
    pub(in crate::host::ssh) owner: (u32, u32),
    /// Type and permissions, as `st_mode`.
    pub(in crate::host::ssh) mode: u32,
    /// Last change, seconds.
    pub(in crate::host::ssh) changed: u32,
}

/// A name in a directory.
#[derive(Debug, Clone)]
pub(in crate::host::ssh) struct Name {
    pub(in crate::host::ssh) name: Bytes,
    pub(in crate::host::ssh) attributes: Attributes,
}

/// What comes back.
#[derive(Debug)]
pub(in crate::host::ssh) enum Reply {
    Status { code: u32, message: String },
    Handle(Bytes),
    Data(Bytes),
    Names(Vec<Name>),
    Attributes(Attributes),
    Extended(Bytes),
}

/// It is not what the protocol says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::host::ssh) struct Malformed;

/// A request that is being put together; its id is filled in when it is sent.
#[derive(Debug)]
pub(in crate::host::ssh) struct Packet(BytesMut);

impl Packet {
    pub(in crate::host::ssh) fn new(kind: u8) -> Self {
        Self::with_room(kind, 256)
    }

    pub(in crate::host::ssh) fn with_room(kind: u8, room: usize) -> Self {
        let mut bytes = BytesMut::with_capacity(room + 64);
        bytes.put_u32(0);
        bytes.put_u8(kind);
        bytes.put_u32(0);
        Self(bytes)
    }

    /// An extension's request.
    pub(in crate::host::ssh) fn extended(name: &str) -> Self {
        Self::new(EXTENDED).string(name.as_bytes())
    }

    pub(in crate::host::ssh) fn string(mut self, bytes: &[u8]) -> Self {
        self.0.put_u32(length(bytes.len()));
        self.0.put_slice(bytes);
        self
    }

    pub(in crate::host::ssh) fn number(mut self, number: u32) -> Self {
        self.0.put_u32(number);
        self
    }

    pub(in crate::host::ssh) fn long(mut self, number: u64) -> Self {
        self.0.put_u64(number);
        self
    }

    /// Attributes that set nothing, or the mode.
    pub(in crate::host::ssh) fn mode(self, mode: Option<u32>) -> Self {
        match mode {
            Some(mode) => self.number(HAS_MODE).number(mode),
            None => self.number(0),
        }
    }

    /// Adds to the data at the end, whose length [`Packet::seal_data`] sets.
    pub(in crate::host::ssh) fn extend(&mut self, data: &[u8]) {
        self.0.put_slice(data);
    }

    pub(in crate::host::ssh) fn len(&self) -> usize {
        self.0.len()
    }

    /// Sets the length of the data that began at `start`, after its four bytes of length.
    pub(in crate::host::ssh) fn seal_data(&mut self, start: usize) {
        let data = length(self.0.len() - start);
        self.0[start - 4..start].copy_from_slice(&data.to_be_bytes());
    }

    /// The bytes to send.
    pub(in crate::host::ssh) fn finish(mut self, id: u32) -> Bytes {
        let whole = length(self.0.len() - 4);
        self.0[..4].copy_from_slice(&whole.to_be_bytes());
        self.0[5..9].copy_from_slice(&id.to_be_bytes());
        self.0.freeze()
    }
}

/// Nothing that is sent comes near 4 GiB.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The first packet.
pub(in crate::host::ssh) fn hello() -> Bytes {
    let mut bytes = BytesMut::with_capacity(9);
    bytes.put_u32(5);
    bytes.put_u8(INIT);
    bytes.put_u32(3);
    bytes.freeze()
}

/// The server's first packet, without its length: its version, and extensions with their versions.
pub(in crate::host::ssh) fn welcome(mut packet: Bytes) -> Result<(u32, Vec<(Bytes, Bytes)>), Malformed> {
    if take_u8(&mut packet)? != VERSION {
        return Err(Malformed);
    }
    let version = take_u32(&mut packet)?;
    let mut extensions = Vec::new();
    while packet.has_remaining() {
        extensions.push((take_string(&mut packet)?, take_string(&mut packet)?));
    }
    Ok((version, extensions))
}

/// A packet without its length: which request it answers, and what.
pub(in crate::host::ssh) fn decode(mut packet: Bytes) -> Result<(u32, Reply), Malformed> {
    let kind = take_u8(&mut packet)?;
    let id = take_u32(&mut packet)?;
    let reply = match kind {
        STATUS => {
            let code = take_u32(&mut packet)?;
            // Old servers leave the words out.
            let message = take_string(&mut packet).unwrap_or_default();
            Reply::Status { code, message: String::from_utf8_lossy(&message).into_owned() }
        }
        HANDLE => Reply::Handle(take_string(&mut packet)?),
        DATA => Reply::Data(take_string(&mut packet)?),
        NAME => {
            let count = take_u32(&mut packet)?;
            let mut names = Vec::new();
            for _ in 0..count {
                let name = take_string(&mut packet)?;
                let _for_people = take_string(&mut packet)?;
                names.push(Name { name, attributes: take_attributes(&mut packet)? });
            }
            Reply::Names(names)
        }
        ATTRS => Reply::Attributes(take_attributes(&mut packet)?),
        EXTENDED_REPLY => Reply::Extended(packet),
        _ => return Err(Malformed),
    };
    Ok((id, reply))
}

fn take_u8(packet: &mut Bytes) -> Result<u8, Malformed> {
    packet.try_get_u8().map_err(|_| Malformed)
}

fn take_u32(packet: &mut Bytes) -> Result<u32, Malformed> {
    packet.try_get_u32().map_err(|_| Malformed)
}

pub(in crate::host::ssh) fn take_u64(packet: &mut Bytes) -> Result<u64, Malformed> {
    packet.try_get_u64().map_err(|_| Malformed)
}

fn take_string(packet: &mut Bytes) -> Result<Bytes, Malformed> {
    let length = usize::try_from(take_u32(packet)?).map_err(|_| Malformed)?;
    if length > packet.len() {
        return Err(Malformed);
    }
    Ok(packet.split_to(length))
}

fn take_attributes(packet: &mut Bytes) -> Result<Attributes, Malformed> {
    let mut attributes = Attributes::default();
    let flags = take_u32(packet)?;
    if flags & HAS_SIZE != 0 {
        attributes.size = take_u64(packet)?;
    }
    if flags & HAS_OWNER != 0 {
        attributes.owner = (take_u32(packet)?, take_u32(packet)?);
    }
    if flags & HAS_MODE != 0 {
        attributes.mode = take_u32(packet)?;
    }
    if flags & HAS_TIMES != 0 {
        let _read = take_u32(packet)?;
        attributes.changed = take_u32(packet)?;
    }
    if flags & HAS_MORE != 0 {
        for _ in 0..take_u32(packet)? {
            let _name = take_string(packet)?;
            let _value = take_string(packet)?;
        }
    }
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_its_length_kind_id_and_fields() {
        let bytes = Packet::new(OPEN).string(b"/a\xFF").number(2).mode(Some(0o600)).finish(7);
        let expected = b"\0\0\0\x18\x03\0\0\0\x07\0\0\0\x03/a\xFF\0\0\0\x02\0\0\0\x04\0\0\x01\x80";
        assert_eq!(bytes, expected.as_slice());
        let mut write = Packet::new(WRITE).string(b"h").long(1).number(0);
        let start = write.len();
        write.extend(b"data");
        write.seal_data(start);
        assert!(write.finish(1).ends_with(b"\0\0\0\0\0\0\0\x01\0\0\0\x04data"));
    }

    #[test]
    fn names_are_bytes() {
        let mut packet = BytesMut::new();
        packet.put_u8(NAME);
        packet.put_u32(9);
        packet.put_u32(1);
        for part in [b"caf\xE9".as_slice(), b"-rw-"] {
            packet.put_u32(u32::try_from(part.len()).unwrap());
            packet.put_slice(part);
        }
        packet.put_u32(HAS_SIZE | HAS_MODE | HAS_TIMES);
        packet.put_u64(5);
        packet.put_u32(0o100_644);
        packet.put_u32(1);
        packet.put_u32(2);
        let (id, Reply::Names(names)) = decode(packet.freeze()).unwrap() else { panic!("names") };
        assert_eq!((id, names.len(), &names[0].name[..]), (9, 1, b"caf\xE9".as_slice()));
        assert_eq!(names[0].attributes, Attributes { size: 5, owner: (0, 0), mode: 0o100_644, changed: 2 });
    }

    #[test]
    fn nothing_that_a_server_sends_is_trusted() {
        let wrong: [&[u8]; 8] = [
            b"",
            b"e",
            b"\x65\0\0\0\x01",
            b"\x66\0\0\0\x01\xFF\xFF\xFF\xFF",
            b"\x67\0\0\0\x01\0\0\0\x02x",
            b"\x68\0\0\0\x01\xFF\xFF\xFF\xFF",
            b"\x69\0\0\0\x01\x80\0\0\0\xFF\xFF\xFF\xFF",
            b"\x07\0\0\0\x01",
        ];
        for bytes in wrong {
            assert_eq!(decode(Bytes::copy_from_slice(bytes)).map(|_| ()), Err(Malformed), "{bytes:?}");
        }
        assert_eq!(welcome(Bytes::from_static(b"\x02\0\0\0\x03\0\0\0\x01")), Err(Malformed));
        assert_eq!(welcome(Bytes::from_static(b"\x02\0\0\0\x03")), Ok((3, Vec::new())));
    }
}
