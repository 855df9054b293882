//! The API server: registry, request chain, admission, patch, watch fan-out, HTTP.
