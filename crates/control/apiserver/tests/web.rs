//! The API over HTTPS, as clients on the network see it. What is asked here needs the wire; the rest is tested in process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod web {
    mod aggregation;
    mod encodings;
    mod harness;
    mod webhooks;
}
