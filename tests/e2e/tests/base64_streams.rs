//! The base64 subprotocols of exec, against a real container: what browsers
//! speak, who can send no bytes but text.
//!
//! No stock client offers them, so the frames are written here, over `kubectl
//! proxy`, which leaves them as they are.
//!
//! Source: RFC 6455; upstream `apimachinery/pkg/util/httpstream/wsstream/conn.go`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use e2e::platform::Build;
use e2e::{Platform, wait};

const LIMIT: Duration = Duration::from_secs(90);
const PORT: u16 = 8_001;
const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: box}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: 'busybox:1.30', command: ['sleep', '100000']}]
";

/// Ends with the test, whatever becomes of it.
struct Proxy(Child);

impl Proxy {
    fn start(platform: &Platform) -> Self {
        let mut command = platform.kubectl_command();
        command
            .args(["proxy", &format!("--port={PORT}"), "--reject-paths=^$"])
            .stdout(Stdio::null());
        let proxy = Self(command.spawn().unwrap());
        wait::until("kubectl proxy to listen", LIMIT, || {
            Ok(connect(platform).map(|_| ()).map_err(|error| error.to_string()))
        })
        .unwrap();
        proxy
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A connection to the proxy. Sockets keep the network of the thread that made
/// them, and this thread ends at once.
fn connect(platform: &Platform) -> std::io::Result<TcpStream> {
    let namespace = File::open(format!("/run/netns/{}", platform.host.name()))?;
    let made = std::thread::spawn(move || {
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(rustix::thread::LinkNameSpaceType::Network))?;
        TcpStream::connect(("127.0.0.1", PORT))
    });
    made.join().unwrap()
}

/// One WebSocket of exec.
struct Socket {
    reader: BufReader<TcpStream>,
    /// The subprotocol that was agreed on.
    protocol: String,
}

impl Socket {
    /// Runs a command in the pod over one of the offered subprotocols.
    fn exec(platform: &Platform, offered: &str, script: &str) -> Self {
        let stream = connect(platform).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let script: String = script.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let request = format!(
            "GET /api/v1/namespaces/default/pods/box/exec?stdin=true&stdout=true&stderr=true&command=sh&command=-c&command={script} HTTP/1.1\r\n\
             Host: 127.0.0.1:{PORT}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {offered}\r\n\r\n"
        );
        (&stream).write_all(request.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut protocol = String::new();
        let mut head = String::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("sec-websocket-protocol")
            {
                value.trim().clone_into(&mut protocol);
            }
            head.push_str(&line);
        }
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        Self { reader, protocol }
    }

    /// Sends bytes on a channel as a text message: the channel's digit, then
    /// base64. Clients mask what they send.
    fn send(&mut self, channel: u8, bytes: &[u8]) {
        const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
        let text = format!("{channel}{}", STANDARD.encode(bytes));
        let length = u8::try_from(text.len()).unwrap();
        assert!(length < 126, "short messages only");
        let mut frame = vec![0x81, 0x80 | length];
        frame.extend(MASK);
        frame.extend(text.bytes().enumerate().map(|(index, byte)| byte ^ MASK[index % 4]));
        self.reader.get_mut().write_all(&frame).unwrap();
    }

    /// The next message: its channel and bytes; `None` at the end.
    fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.reader.read_exact(&mut head).ok()?;
        let length = match head[1] {
            126 => {
                let mut long = [0; 2];
                self.reader.read_exact(&mut long).unwrap();
                usize::from(u16::from_be_bytes(long))
            }
            127 => {
                let mut long = [0; 8];
                self.reader.read_exact(&mut long).unwrap();
                usize::try_from(u64::from_be_bytes(long)).unwrap()
            }
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.reader.read_exact(&mut payload).unwrap();
        match head[0] {
            0x88 => None,
            0x81 => {
                let (digit, text) = payload.split_first().unwrap();
                Some((digit - b'0', STANDARD.decode(text).expect("every message is base64")))
            }
            other => panic!("a frame {other:#x} is no text message"),
        }
    }

    /// Everything there was to say, by channel.
    fn all(&mut self) -> [Vec<u8>; 4] {
        let mut channels: [Vec<u8>; 4] = Default::default();
        while let Some((channel, bytes)) = self.receive() {
            channels[usize::from(channel)].extend(bytes);
        }
        channels
    }
}

#[test]
fn root_commands_run_over_the_base64_subprotocols() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("base64", &build).unwrap();
    platform.create(POD).unwrap();
    platform.wait_status("default", "box", "Running", LIMIT).unwrap();
    let _proxy = Proxy::start(&platform);

    // Input, both outputs, and the end as a Status.
    let mut socket = Socket::exec(
        &platform,
        "v4.base64.channel.k8s.io",
        r"read word; printf 'got \377\000%s' $word; echo wrong >&2; exit 7",
    );
    assert_eq!(socket.protocol, "v4.base64.channel.k8s.io");
    socket.send(0, b"something\n");
    let [_, stdout, stderr, end] = socket.all();
    assert_eq!(stdout, b"got \xff\x00something");
    assert_eq!(stderr, b"wrong\n");
    let status: serde_json::Value = serde_json::from_slice(&end).unwrap();
    assert_eq!(
        (&status["status"], &status["reason"]),
        (&"Failure".into(), &"NonZeroExitCode".into())
    );
    assert_eq!(status["details"]["causes"][0]["message"], "7");

    // The oldest form tells a failure as text, and a success with nothing.
    for (script, told) in [("echo fine", false), ("exit 3", true)] {
        let mut socket = Socket::exec(&platform, "base64.channel.k8s.io", script);
        assert_eq!(socket.protocol, "base64.channel.k8s.io");
        let [_, stdout, _, end] = socket.all();
        assert_eq!(stdout, if told { &b""[..] } else { b"fine\n" }, "{script}");
        let end = String::from_utf8(end).unwrap();
        assert_eq!(!end.is_empty(), told, "{script}: {end}");
        assert!(!told || end.contains("exit code 3") || end.contains('3'), "{script}: {end}");
    }

    // More than a frame holds, whole and in order.
    let mut socket = Socket::exec(&platform, "v4.base64.channel.k8s.io", "seq 20000");
    let [_, stdout, _, _] = socket.all();
    let wanted: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    assert_eq!(stdout.len(), wanted.len());
    assert_eq!(String::from_utf8(stdout).unwrap(), wanted);

    // A message that is no base64 ends the connection, and the command with it.
    let mut socket = Socket::exec(&platform, "v4.base64.channel.k8s.io", "cat; sleep 4711");
    let mut broken = vec![0x81, 0x83, 0, 0, 0, 0];
    broken.extend(b"0!!");
    socket.reader.get_mut().write_all(&broken).unwrap();
    socket.all();
    wait::until("the command to end with its connection", LIMIT, || {
        let list = platform.ok(&["exec", "box", "--", "ps", "-o", "args"])?;
        Ok(if list.contains("sleep 4711") { Err(list) } else { Ok(()) })
    })
    .unwrap();
}
