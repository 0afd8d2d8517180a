//! API aggregation: APIServices say which servers answer which group versions beside this one. Requests for theirs are handed on
//! (`http_api::aggregated`), what they offer is told in discovery and OpenAPI, and whether they can be asked stands in their status.
//! See KEP-263 and upstream's kube-aggregator.

mod availability;
mod check;
mod documents;
mod follow;
pub(crate) mod inprocess;
pub(crate) mod local;
mod offers;
pub(crate) mod service;
pub(crate) mod transport;

use std::sync::Arc;

use fram_client::SharedInformers;
use fram_machinery::Status;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::pki::Identity;
use crate::server::Server;
use crate::tls::{ClientIdentity, TlsError};

pub use offers::AggregatedKind;
pub(crate) use offers::{Offer, Offers};
pub(crate) use service::{ApiService, Services};

/// What is known of the other servers.
pub(crate) struct Aggregator {
    services: RwLock<Arc<Services>>,
    offers: RwLock<Arc<Offers>>,
    /// The kinds among them whose objects have owners and namespaces.
    kinds: watch::Sender<Arc<[AggregatedKind]>>,
    /// Group versions of which it is not known now what they have.
    unheard: watch::Sender<Arc<[String]>>,
    /// By which they know that it is this server that asks.
    identity: Option<ClientIdentity>,
}

impl Default for Aggregator {
    fn default() -> Self {
        Self {
            services: RwLock::default(),
            offers: RwLock::default(),
            kinds: watch::Sender::new(Arc::new([])),
            unheard: watch::Sender::new(Arc::new([])),
            identity: None,
        }
    }
}

impl Aggregator {
    /// All APIServices now.
    pub(crate) fn services(&self) -> Arc<Services> {
        self.services.read().clone()
    }

    fn change_services(&self, change: impl FnOnce(&Services) -> Services) {
        {
            let mut services = self.services.write();
            *services = Arc::new(change(&services));
        }
        self.tell();
    }

    /// What the other servers were last heard to offer.
    pub(crate) fn offers(&self) -> Arc<Offers> {
        self.offers.read().clone()
    }

    fn change_offers(&self, change: impl FnOnce(&Offers) -> Offers) {
        {
            let mut offers = self.offers.write();
            *offers = Arc::new(change(&offers));
        }
        self.tell();
    }

    /// Tells followers what is different now; what there is is read while nobody else tells, so that the last word is the latest.
    fn tell(&self) {
        let differs = |known: &mut Arc<[AggregatedKind]>| {
            let kinds: Arc<[AggregatedKind]> = self.offers().kinds().into();
            std::mem::replace(known, kinds.clone()) != kinds
        };
        self.kinds.send_if_modified(differs);
        self.unheard.send_if_modified(|known| {
            let (services, offers) = (self.services(), self.offers());
            let unheard = services.remote().filter(|s| !offers.get(&s.name).is_some_and(|offer| offer.fresh));
            let unheard: Arc<[String]> = unheard.map(|s| format!("{}/{}", s.group, s.version)).collect();
            std::mem::replace(known, unheard.clone()) != unheard
        });
    }

    pub(crate) fn identity(&self) -> Option<&ClientIdentity> {
        self.identity.as_ref()
    }
}

impl Server {
    /// Shows other servers this certificate, by which they take its word for who asks.
    pub fn with_front_proxy(mut self, identity: &Identity) -> Result<Self, TlsError> {
        self.aggregator.identity = Some(ClientIdentity::read(identity)?);
        Ok(self)
    }

    /// Tells of the kinds that other servers answer and whose objects end with their owners and namespaces.
    pub fn follow_aggregated(&self) -> watch::Receiver<Arc<[AggregatedKind]>> {
        self.aggregator.kinds.subscribe()
    }

    /// Tells of the group versions whose servers do not say now which kinds they have.
    pub fn follow_unheard(&self) -> watch::Receiver<Arc<[String]>> {
        self.aggregator.unheard.subscribe()
    }

    /// Whether the server behind an APIService is available, as far as is known. What was said of it a moment ago may not have arrived
    /// where requests look, but whoever read it counts on it.
    pub(crate) async fn is_available(&self, service: &ApiService) -> bool {
        if service.available {
            return true;
        }
        let Ok(place) = follow::place(&self.registry, &service.name) else { return false };
        self.registry.get_object(&place).await.is_ok_and(|object| ApiService::read(&object).available)
    }

    /// Reads the APIServices; to be called before the server is ready.
    pub(crate) async fn load_services(&self) -> Result<(), Status> {
        follow::load(self).await.map(drop)
    }

    /// Follows APIServices, checks the servers behind them, and learns what they offer, until `stop`.
    pub fn start_aggregation(self: &Arc<Self>, informers: &SharedInformers, tasks: &TaskTracker, stop: &CancellationToken) {
        tasks.spawn(follow::follow(self.clone(), stop.clone()));
        check::start(self, informers, tasks, stop);
        documents::start(self, informers, tasks, stop);
    }
}
