//! What a Kubernetes API object is: the object tree, schemas, codecs, patches, selectors, quantities and names.
//! Pure: no I/O, no clock, no async runtime.

pub mod cbor;
pub mod human;
pub mod json;
pub mod jsonpath;
pub mod labels;
pub mod managed;
pub mod meta;
pub mod names;
pub mod normalize;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod schema;
pub mod status;
pub mod structural;
pub mod value;
pub mod view;
pub mod yaml;

pub use schema::{Schema, Type, TypeId};
pub use status::{Reason, Status, StatusCause};
pub use value::{Entries, Key, List, Map, Text, Value};
