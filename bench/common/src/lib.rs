//! What load programs share: subjects that are started by commands and measured from outside, requests, and the closed loop that
//! drives them. It knows nothing of what is measured.

mod choice;
mod load;
mod requests;
mod subject;
mod watch;

pub use choice::Choice;
pub use load::{Figures, ask, drive};
pub use requests::{post, request, send};
pub use subject::{NAMESPACE, Subject, make, pss};
pub use watch::{Following, watch};
