use proptest::prelude::*;

use super::*;

/// What a client sends, the other side of [`Decoder`].
#[derive(Default)]
struct Client {
    deflater: Deflater,
    wire: Vec<u8>,
}

impl Client {
    fn open(&mut self, stream: StreamId, headers: &Headers, fin: bool) {
        let block = self.deflater.block(headers);
        let rest = [0; 6];
        control(SYN_STREAM, u8::from(fin), &[&stream.to_be_bytes(), &rest, &block], &mut self.wire);
    }
}

fn read(wire: &[u8], cut: usize) -> Result<Vec<Event>, SpdyError> {
    let (mut decoder, mut events) = (Decoder::default(), Vec::<Event>::new());
    for part in wire.chunks(cut.max(1)) {
        decoder.push(part);
        while let Some(event) = decoder.next_event()? {
            // Pieces of one frame are joined: their number depends on the cut.
            if let (
                Some(Event::Data {
                    stream,
                    bytes,
                    fin: ended @ false,
                }),
                Event::Data {
                    stream: next,
                    bytes: more,
                    fin,
                },
            ) = (events.last_mut(), &event)
                && stream == next
            {
                bytes.extend(more);
                *ended = *fin;
                continue;
            }
            events.push(event);
        }
    }
    Ok(events)
}

fn headers(kind: &str) -> Headers {
    Headers(vec![("streamtype".into(), kind.into())])
}

#[test]
fn a_conversation_is_read() {
    let mut client = Client::default();
    client.open(1, &headers("error"), true);
    client.open(3, &headers("stdin"), false);
    Encoder::data(3, b"hello", false, &mut client.wire);
    Encoder::data(3, b"", true, &mut client.wire);
    Encoder::ping(7, &mut client.wire);
    Encoder::reset(3, 5, &mut client.wire);
    Encoder::go_away(3, &mut client.wire);
    let events = read(&client.wire, 3).unwrap();
    let expected = [
        Event::Open {
            stream: 1,
            headers: headers("error"),
            fin: true,
        },
        Event::Open {
            stream: 3,
            headers: headers("stdin"),
            fin: false,
        },
        Event::Data {
            stream: 3,
            bytes: b"hello".to_vec(),
            fin: true,
        },
        Event::Ping(7),
        Event::Reset { stream: 3 },
        Event::GoAway,
    ];
    assert_eq!(events, expected);
}

#[test]
fn what_a_server_sends_is_what_clients_expect() {
    let mut wire = Vec::new();
    Encoder::default().reply(1, &mut wire);
    assert_eq!(wire[..4], [0x80, 0x03, 0, 2]);
    let events = read(&wire, 1).unwrap();
    assert_eq!(events, [], "a reply without headers and without an end is nothing to know");
}

#[test]
fn what_is_not_spdy_is_refused() {
    assert_eq!(read(b"\x80\x02\0\x01\0\0\0\0", 100).unwrap_err(), SpdyError::Version(0x8002));
    assert_eq!(
        read(b"\x80\x03\0\x06\0\xff\xff\xff", 100).unwrap_err(),
        SpdyError::TooLong(0x00ff_ffff)
    );
    assert_eq!(read(b"\x80\x03\0\x06\0\0\0\x02\0\0", 100).unwrap_err(), SpdyError::Short(PING));
    assert_eq!(
        read(b"\x80\x03\0\x01\0\0\0\x04\0\0\0\x01", 100).unwrap_err(),
        SpdyError::Short(SYN_STREAM)
    );
    let unknown = b"\x80\x03\0\x09\0\0\0\x08\0\0\0\x01\0\0\x10\0";
    assert_eq!(read(unknown, 100).unwrap(), [], "a window update is nobody's business");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn streams_survive_any_cut(
        data in prop::collection::vec((1u32..9, prop::collection::vec(any::<u8>(), 1..70_000)), 0..5),
        cut in 1usize..5000,
    ) {
        let mut client = Client::default();
        for stream in 1..9 {
            client.open(stream, &headers("data"), false);
        }
        for (stream, bytes) in &data {
            Encoder::data(*stream, bytes, false, &mut client.wire);
        }
        let mut got = std::collections::BTreeMap::<u32, Vec<u8>>::new();
        let mut want = got.clone();
        for event in read(&client.wire, cut).unwrap() {
            if let Event::Data { stream, bytes, .. } = event {
                got.entry(stream).or_default().extend(bytes);
            }
        }
        for (stream, bytes) in data {
            want.entry(stream).or_default().extend(bytes);
        }
        prop_assert_eq!(got, want);
    }

    #[test]
    fn any_bytes_are_taken_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..2000), kind in 0u16..12, cut in 1usize..100) {
        let mut framed = Vec::new();
        control(kind, 0, &[&bytes], &mut framed);
        for wire in [&bytes, &framed] {
            let mut decoder = Decoder::default();
            for part in wire.chunks(cut) {
                decoder.push(part);
                while let Ok(Some(_)) = decoder.next_event() {}
                prop_assert!(decoder.bytes.len() <= wire.len());
            }
        }
    }
}
