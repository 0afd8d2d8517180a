//! fram-datapath: the only writer of nftables tables, links, addresses and routes, in raw netlink. It knows no pods and no
//! Services: the pod network and the service proxy describe what they want, and this crate makes the kernel have it.
//!
//! Everything made here is recognisable: tables and links start with [`PREFIX`], routes carry the protocol number
//! [`route::PROTOCOL`]; [`purge::purge`] removes it all.

pub mod address;
pub mod announce;
pub mod conntrack;
pub mod namespace;
mod netlink;
pub mod nft;
pub mod purge;
pub mod route;
pub mod sysctl;

pub use netlink::NetlinkError;

/// The start of the name of every table and link that Fram makes.
pub const PREFIX: &str = "fram";
