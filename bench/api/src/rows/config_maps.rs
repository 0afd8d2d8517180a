//! Many small objects in many namespaces: memory, lists, writes beside a list of everything, and a start on all of it.

use std::cell::Cell;
use std::time::Instant;

use anyhow::Result;
use fram_bench_common::{Figures, Subject, ask, drive, post, request, send};
use fram_machinery::{json, object};

use super::Plan;

const IN_EACH: usize = 100;
const WRITES: usize = 2000;

fn namespace(number: usize) -> String {
    format!("/api/v1/namespaces/config-{number}")
}

pub(super) async fn run(plan: &Plan, subjects: &mut [Subject]) -> Result<()> {
    let namespaces = plan.config_maps / IN_EACH;
    for subject in &mut *subjects {
        print(subject, "create a ConfigMap", &create(subject, namespaces, plan.config_maps).await?);
        println!("{:<36} {:<6} {:.0} MB", "memory, with the ConfigMaps", subject.name(), subject.memory());
    }
    for subject in &mut *subjects {
        let one = |n: usize| request("GET", &format!("{}/configmaps", namespace(n % namespaces)), "identity");
        print(subject, "list the ConfigMaps of a namespace", &drive(subject, &subject.clients, 5000, one).await?);
        let (lists, writes) = beside(subject, namespaces).await?;
        print(subject, "write a ConfigMap beside full lists", &writes);
        println!("{:<36} {:<6} {lists}", "full lists meanwhile", subject.name());
    }
    for subject in subjects {
        subject.restart().await?;
        let begun = Instant::now();
        ask(&subject.clients[0], request("GET", &format!("{}/configmaps", namespace(1)), "")).await?;
        let (started, listed) = (subject.started.as_millis(), begun.elapsed().as_millis());
        println!("{:<36} {:<6} {started} ms, first list {listed} ms", "start on all of it until /readyz", subject.name());
        println!("{:<36} {:<6} {:.0} MB", "memory, started on all of it", subject.name(), subject.memory());
    }
    Ok(())
}

fn print(subject: &Subject, title: &str, figures: &Figures) {
    println!("{title:<36} {:<6} {figures}", subject.name());
}

async fn create(subject: &Subject, namespaces: usize, config_maps: usize) -> Result<Figures> {
    let made = |n: usize| post("/api/v1/namespaces", &object!({ "metadata": { "name": (format!("config-{n}")) } }));
    drive(subject, &subject.clients, namespaces, made).await?;
    let value = "x".repeat(400);
    let data = object!({ "one": (value.as_str()), "other": (value.as_str()) });
    let object = |n: usize| object!({ "metadata": { "name": (format!("map-{}", n / namespaces)) }, "data": (data.clone()) });
    let body = |n: usize| json::to_vec(&object(n)).into();
    let path = |n: usize| format!("{}/configmaps", namespace(n % namespaces));
    drive(subject, &subject.clients, config_maps, |n| send("POST", &path(n), "application/json", body(n))).await
}

/// Writes of half of the clients while one lists everything, again and again.
async fn beside(subject: &Subject, namespaces: usize) -> Result<(usize, Figures)> {
    let path = |n: usize| format!("{}/configmaps/map-0", namespace(n % namespaces));
    let body = |n: usize| format!(r#"{{"data":{{"written":"{n}"}}}}"#).into();
    let half = subject.clients.len() / 2;
    let writes = drive(subject, &subject.clients[..half], WRITES, |n| send("PATCH", &path(n), "application/merge-patch+json", body(n)));
    let lists = Cell::new(0);
    let listing = async {
        loop {
            match ask(&subject.admin, request("GET", "/api/v1/configmaps", "identity")).await {
                Ok(_) => lists.set(lists.get() + 1),
                Err(error) => return error,
            }
        }
    };
    tokio::select! {
        figures = writes => Ok((lists.get(), figures?)),
        error = listing => Err(error),
    }
}
