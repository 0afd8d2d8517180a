//! Removing everything that Fram made in a network namespace: tables, links and routes, and counting it.

use crate::PREFIX;
use crate::netlink::NetlinkError;
use crate::{nft, route};

/// How many things of each sort there are, or were removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub tables: usize,
    pub links: usize,
    pub routes: usize,
}

impl Counts {
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// What of Fram's is in the calling thread's network namespace.
pub fn count() -> Result<Counts, NetlinkError> {
    let (tables, links, routes) = find()?;
    Ok(Counts { tables: tables.len(), links: links.len(), routes: routes.len() })
}

/// Removes all of it from the calling thread's network namespace; gives what it removed.
pub fn purge() -> Result<Counts, NetlinkError> {
    let (tables, links, routes) = find()?;
    let mut batch = nft::Batch::new();
    tables.iter().for_each(|table| batch.delete_table(table));
    nft::Handle::open()?.commit(batch)?;
    let mut handle = route::Handle::open()?;
    // Routes first: those over a link go with it and would not be counted.
    for route in &routes {
        handle.delete_route(route)?;
    }
    for link in &links {
        handle.delete_link(&link.name)?;
    }
    Ok(Counts { tables: tables.len(), links: links.len(), routes: routes.len() })
}

type Found = (Vec<nft::Table>, Vec<route::Link>, Vec<route::Route>);

fn find() -> Result<Found, NetlinkError> {
    let tables = nft::Handle::open()?.tables()?;
    let mut handle = route::Handle::open()?;
    let links = handle.links()?.into_iter().filter(|link| link.name.starts_with(PREFIX)).collect();
    Ok((tables, links, handle.routes()?))
}
