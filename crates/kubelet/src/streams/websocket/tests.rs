use proptest::prelude::*;

use super::*;

/// A frame as a client sends it.
fn masked(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame(opcode, &[payload], &mut out);
    out[0] = (u8::from(fin) << 7) | opcode;
    let head = out.len() - payload.len();
    out[1] |= 0x80;
    let mask = [0x12, 0x34, 0x56, 0x78];
    for (at, byte) in out[head..].iter_mut().enumerate() {
        *byte ^= mask[at % 4];
    }
    out.splice(head..head, mask);
    out
}

/// All events, with the pieces of each message joined.
fn read(wire: &[u8], cut: usize) -> Result<(Vec<Vec<u8>>, Vec<Event>), WebSocketError> {
    let (mut decoder, mut messages, mut others) = (Decoder::default(), Vec::<Vec<u8>>::new(), Vec::new());
    let mut ended = true;
    for part in wire.chunks(cut.max(1)) {
        decoder.push(part);
        while let Some(event) = decoder.next_event()? {
            match event {
                Event::Piece { first, last, bytes } => {
                    assert_eq!(first, ended, "pieces follow each other");
                    if first {
                        messages.push(Vec::new());
                    }
                    messages.last_mut().unwrap().extend(bytes);
                    ended = last;
                }
                other => others.push(other),
            }
        }
    }
    Ok((messages, others))
}

#[test]
fn the_key_is_answered_as_in_the_standard() {
    assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[test]
fn what_breaks_the_rules_is_refused() {
    let wrong = |wire: &[u8]| read(wire, 1).unwrap_err();
    assert_eq!(wrong(&[0x82, 0x01, 0x00]), WebSocketError::Unmasked);
    assert_eq!(wrong(&[0xc2, 0x81, 0, 0, 0, 0, 0]), WebSocketError::Unknown(0xc2));
    assert_eq!(wrong(&masked(true, 0x3, b"")), WebSocketError::Unknown(0x83));
    assert_eq!(wrong(&masked(false, PING, b"")), WebSocketError::Control);
    assert_eq!(wrong(&masked(true, PING, &[0; 126])), WebSocketError::Control);
    assert_eq!(wrong(&masked(true, CONTINUATION, b"x")), WebSocketError::Order);
    let nested = [masked(false, BINARY, b"a"), masked(true, BINARY, b"b")].concat();
    assert_eq!(wrong(&nested), WebSocketError::Order);
}

#[test]
fn a_ping_within_a_message_and_nothing_after_the_close() {
    let wire = [
        masked(false, BINARY, b"a"),
        masked(true, PING, b"?"),
        masked(true, PONG, b"!"),
        masked(true, CONTINUATION, b"b"),
        masked(true, CLOSE, &1000u16.to_be_bytes()),
        masked(true, BINARY, b"late"),
    ]
    .concat();
    let (messages, others) = read(&wire, 1000).unwrap();
    assert_eq!(messages, [b"ab".to_vec()]);
    assert_eq!(others, [Event::Ping(b"?".to_vec()), Event::Close]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn messages_survive_any_cut_and_any_fragmentation(
        messages in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..70_000), 1..4), 0..4),
        cut in 1usize..5000,
    ) {
        let mut wire = Vec::new();
        for fragments in &messages {
            for (at, fragment) in fragments.iter().enumerate() {
                let opcode = if at == 0 { BINARY } else { CONTINUATION };
                wire.extend(masked(at + 1 == fragments.len(), opcode, fragment));
            }
        }
        let (got, others) = read(&wire, cut).unwrap();
        prop_assert_eq!(got, messages.iter().map(|fragments| fragments.concat()).collect::<Vec<_>>());
        prop_assert!(others.is_empty());
    }

    #[test]
    fn any_bytes_are_taken_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..2000), cut in 1usize..100) {
        let mut decoder = Decoder::default();
        for part in bytes.chunks(cut) {
            decoder.push(part);
            while let Ok(Some(_)) = decoder.next_event() {}
            prop_assert!(decoder.bytes.len() <= bytes.len());
        }
    }
}
