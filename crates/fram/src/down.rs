//! `fram down`: ends pods that a stopped `fram up` left running, and removes what they hold in the kernel.

use anyhow::{Context, bail};

use crate::cli::Down;
use crate::node::NodeLock;

pub(crate) fn run(down: Down) -> anyhow::Result<()> {
    crate::preflight::check()?;
    let data = &down.data_dir;
    let has_store = data.join("store").exists();
    if !has_store && !NodeLock::exists(data) {
        bail!("{} holds no cluster: nothing to do", data.display());
    }
    // The store's lock tells whether a fram still runs on this data.
    let open = || fram_store::Embedded::open(fram_store::Options::new(data.join("store"))).context("is fram still running?");
    let store = if has_store { Some(open()?) } else { None };
    // An agent has no store; its own lock tells.
    let _lock = NodeLock::take(data)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(crate::node::purge(data, &down.cgroup_root))?;
    drop(store);
    if down.purge {
        std::fs::remove_dir_all(data).with_context(|| format!("cannot remove {}", data.display()))?;
    }
    println!("fram: down{}", if down.purge { "; data removed" } else { "" });
    Ok(())
}
