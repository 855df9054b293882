//! Fields of messages that are no Kubernetes objects.

use super::wire;

/// Appends a field that holds an integer or a boolean.
pub fn varint(out: &mut Vec<u8>, number: u32, value: i64) {
    wire::varint(out, number, value);
}

/// Appends a field that holds text, bytes or a whole message.
pub fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    wire::bytes(out, number, value);
}
