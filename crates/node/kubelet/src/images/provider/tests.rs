//! Programs that give credentials, and what is taken of them.

use super::*;

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n";
const ONE: &str =
    "- {name: p, matchImages: ['*.example.org'], defaultCacheDuration: 1m, apiVersion: credentialprovider.kubelet.k8s.io/v1}\n";

fn read(text: &str) -> Result<Vec<Provider>, String> {
    read_config(&yaml::from_str(&format!("{HEAD}{text}")).unwrap())
}

#[test]
fn a_configuration_names_programs_and_what_they_are_for() {
    assert_eq!(read(ONE).unwrap()[0].default_cache, Duration::from_secs(60));
    for (text, fault) in [
        ("  []\n", "at least 1 item"),
        (&*format!("{ONE}{ONE}"), "is not unique"),
        (&*ONE.replace("name: p", "name: ../p"), "must name a file"),
        (&*ONE.replace("matchImages: ['*.example.org'], ", ""), "matchImages is required"),
        (&*ONE.replace("defaultCacheDuration: 1m, ", ""), "defaultCacheDuration is required"),
        (&*ONE.replace("k8s.io/v1}", "k8s.io/v9}"), "unsupported apiVersion"),
        (&*ONE.replace("name: p", "name: p, tokenAttributes: {}"), "tokenAttributes are not supported"),
        (&*ONE.replace("name: p", "name: p, nme: q"), "unknown field"),
    ] {
        let told = read(text).unwrap_err();
        assert!(told.contains(fault), "{told}");
    }
}

/// A provider whose program is the shell with this script; it notes its calls. A file that was only just written might still be open
/// in the child of another test, and could not be run.
fn providers(dir: &Path, script: &str) -> CredentialProviders {
    std::os::unix::fs::symlink("/bin/sh", dir.join("p")).unwrap();
    let script = format!("echo x >> {}/calls\n{script}\n", dir.display());
    let args = json::to_string(&object!(["-c", (script.as_str())]));
    let config = dir.join("config.yaml");
    std::fs::write(&config, format!("{HEAD}{}", ONE.replace("name: p", &format!("name: p, args: {args}")))).unwrap();
    CredentialProviders::load(&config, dir).unwrap()
}

fn calls(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("calls")).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn a_program_is_asked_for_images_that_match_and_its_answer_is_kept_as_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let answer = r#"{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderResponse","cacheKeyType":"Registry",
        "auth":{"*.example.org":{"username":"u","password":"IMAGE"}}}"#;
    let script = format!("image=$(sed 's/.*\"image\":\"\\([^\"]*\\)\".*/\\1/')\nsed \"s|IMAGE|$image|\" <<'E'\n{answer}\nE");
    let providers = providers(dir.path(), &script);
    let ask = |image: &'static str| {
        let providers = &providers;
        async move { providers.credentials(image).await.into_iter().map(|(a, _)| a.password).collect::<Vec<_>>() }
    };
    assert_eq!(ask("other.org/x:1").await, Vec::<String>::new());
    assert_eq!(calls(dir.path()), 0);
    assert_eq!(ask("a.example.org/x:1").await, ["a.example.org/x:1"]);
    assert_eq!(ask("a.example.org/y:1").await, ["a.example.org/x:1"], "the registry's answer is kept");
    assert_eq!(ask("b.example.org/y:1").await, ["b.example.org/y:1"]);
    assert_eq!(calls(dir.path()), 2);
}

#[tokio::test]
async fn a_program_that_fails_or_says_nonsense_gives_nothing() {
    for script in ["exit 3", "echo nonsense", "echo '{\"kind\":\"CredentialProviderResponse\"}'"] {
        let dir = tempfile::tempdir().unwrap();
        let providers = providers(dir.path(), script);
        assert_eq!(providers.credentials("a.example.org/x").await, Vec::new(), "{script}");
        assert_eq!(calls(dir.path()), 1);
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("c"), format!("{HEAD}{ONE}")).unwrap();
    assert!(CredentialProviders::load(&dir.path().join("c"), dir.path()).unwrap_err().to_string().contains("find the program"));
}
