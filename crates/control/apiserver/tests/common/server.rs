//! A server on an in-memory store, asked in process.

use std::sync::Arc;

use fram_api::Api;
use fram_apiserver::admission::Chain;
use fram_apiserver::allocate::Allocators;
use fram_apiserver::bootstrap::Cluster;
use fram_apiserver::nodes::NoNodes;
use fram_apiserver::registry::Registry;
use fram_apiserver::token::{DEFAULT_ISSUER, Tokens};
use fram_apiserver::{Environment, InProcess, Server, User};
use fram_client::Client;
use fram_store::{Embedded, Options, Store};

pub(crate) fn in_memory() -> Arc<dyn Store> {
    Arc::new(Embedded::open(Options::in_memory()).unwrap())
}

pub(crate) async fn server(store: Arc<dyn Store>) -> Arc<Server> {
    server_in(store, Environment::system()).await
}

pub(crate) async fn server_in(store: Arc<dyn Store>, environment: Environment) -> Arc<Server> {
    server_with(store, environment, Allocators::default()).await
}

pub(crate) async fn server_with(store: Arc<dyn Store>, environment: Environment, allocators: Allocators) -> Arc<Server> {
    let server = unprepared(store, environment, allocators);
    server.bootstrap(&cluster()).await.unwrap();
    server
}

/// One that has not been at the store yet.
pub(crate) fn unprepared(store: Arc<dyn Store>, environment: Environment, allocators: Allocators) -> Arc<Server> {
    admitting(store, environment, allocators, Chain::standard())
}

pub(crate) fn admitting(store: Arc<dyn Store>, environment: Environment, allocators: Allocators, chain: Chain) -> Arc<Server> {
    let api = Arc::new(Api::builtin().unwrap());
    let registry = Registry::new(api, store, "/registry/", environment, chain, allocators);
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let tokens = Tokens::new(registry.clone(), DEFAULT_ISSUER, &key).unwrap();
    Arc::new(Server::new(registry, tokens, Arc::new(NoNodes)))
}

pub(crate) fn cluster() -> Cluster {
    Cluster {
        ca_pem: "ca".into(),
        front_proxy_ca_pem: "front".into(),
        address: [192, 0, 2, 1].into(),
        port: 6443,
        cluster_domain: "cluster.local".into(),
        shared: false,
    }
}

pub(crate) fn client_as(server: &Arc<Server>, user: User) -> Client {
    Client::new(Arc::new(InProcess::new(server.clone(), user)), "test")
}
