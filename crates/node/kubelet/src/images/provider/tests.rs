//! Programs that give credentials, and what is taken of them.

use super::*;

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n";
const ONE: &str =
    "- {name: p, matchImages: ['*.example.org'], defaultCacheDuration: 1m, apiVersion: credentialprovider.kubelet.k8s.io/v1}\n";

fn read(text: &str) -> Result<Vec<Provider>, String> {
    read_config(&yaml::from_str(&format!("{HEAD}{text}")).unwrap())
}

fn tokens(attributes: &str) -> String {
    ONE.replace("name: p", &format!("name: p, tokenAttributes: {attributes}"))
}

/// Accounts with annotations that say their names; tokens are new for each question.
#[derive(Default)]
struct Model {
    asked: Mutex<Vec<String>>,
}

#[async_trait::async_trait]
impl Accounts for Model {
    async fn get(&self, namespace: &str, name: &str) -> Result<Value, Status> {
        Ok(object!({ "metadata": { "namespace": namespace, "name": name, "uid": "1", "annotations": { "role": name, "own": "x" } } }))
    }

    async fn token(&self, pod: &PodIdentity, account_uid: &str, audience: &str) -> Result<String, Status> {
        let mut asked = self.asked.lock();
        asked.push(format!("{} {account_uid} {audience}", pod.uid));
        Ok(format!("token-{}", asked.len()))
    }
}

fn of(account: &str) -> PodIdentity {
    PodIdentity { namespace: "ns".into(), name: "p".into(), uid: "u".into(), account: account.into() }
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
        (&*tokens("{cacheType: Token, requireServiceAccount: true}"), "serviceAccountTokenAudience is required"),
        (&*tokens("{serviceAccountTokenAudience: a, requireServiceAccount: true}"), "cacheType is required"),
        (&*tokens("{serviceAccountTokenAudience: a, cacheType: Pod, requireServiceAccount: true}"), "cacheType \"Pod\" is not supported"),
        (&*tokens("{serviceAccountTokenAudience: a, cacheType: Token}"), "requireServiceAccount is required"),
        (
            &*tokens(
                "{serviceAccountTokenAudience: a, cacheType: Token, requireServiceAccount: false, requiredServiceAccountAnnotationKeys: [k]}",
            ),
            "requireServiceAccount cannot be false",
        ),
        (
            &*tokens(
                "{serviceAccountTokenAudience: a, cacheType: Token, requireServiceAccount: true, requiredServiceAccountAnnotationKeys: [k], \
                 optionalServiceAccountAnnotationKeys: [k]}",
            ),
            "annotation key \"k\" is named twice",
        ),
        (&*tokens("{audience: a}"), "unknown field \"providers.tokenAttributes.audience\""),
        (&*ONE.replace("name: p", "name: p, nme: q"), "unknown field"),
    ] {
        let told = read(text).unwrap_err();
        assert!(told.contains(fault), "{told}");
    }
}

/// A provider whose program is the shell with this script; it notes its calls. A file that was only just written might still be open
/// in the child of another test, and could not be run.
fn providers(dir: &Path, script: &str) -> CredentialProviders {
    configured(dir, script, ONE)
}

fn configured(dir: &Path, script: &str, one: &str) -> CredentialProviders {
    std::os::unix::fs::symlink("/bin/sh", dir.join("p")).unwrap();
    let script = format!("echo x >> {}/calls\n{script}\n", dir.display());
    let args = json::to_string(&object!(["-c", (script.as_str())]));
    let config = dir.join("config.yaml");
    std::fs::write(&config, format!("{HEAD}{}", one.replace("name: p", &format!("name: p, args: {args}")))).unwrap();
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
        async move { providers.credentials(image, &of(""), &Model::default()).await.into_iter().map(|(a, _)| a.password).collect::<Vec<_>>() }
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
        assert_eq!(providers.credentials("a.example.org/x", &of(""), &Model::default()).await, Vec::new(), "{script}");
        assert_eq!(calls(dir.path()), 1);
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("c"), format!("{HEAD}{ONE}")).unwrap();
    assert!(CredentialProviders::load(&dir.path().join("c"), dir.path()).unwrap_err().to_string().contains("find the program"));
}

#[tokio::test]
async fn a_program_is_told_of_the_pods_account_and_its_answer_is_kept_for_that_one() {
    let script = r#"request=$(cat)
field() { echo "$request" | sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }
cat <<E
{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderResponse","cacheKeyType":"Registry",
 "auth":{"*.example.org":{"username":"$(field role)","password":"got $(field serviceAccountToken)"}}}
E"#;
    let attributes = |cache: &str, keys: &str| {
        tokens(&format!("{{serviceAccountTokenAudience: reg, cacheType: {cache}, requireServiceAccount: true, {keys}}}"))
    };
    let opted = "requiredServiceAccountAnnotationKeys: [role], optionalServiceAccountAnnotationKeys: [absent]";
    for (cache, expect) in
        [("ServiceAccount", ["got token-1", "got token-1", "got token-3"]), ("Token", ["got token-1", "got token-2", "got token-3"])]
    {
        let (dir, model) = (tempfile::tempdir().unwrap(), Model::default());
        let providers = configured(dir.path(), script, &attributes(cache, opted));
        let mut got = Vec::new();
        for account in ["a", "a", "b"] {
            let found = providers.credentials("a.example.org/x", &of(account), &model).await;
            let (auth, used) = &found[0];
            let own = super::super::access::PullAccount { uid: "1".into(), namespace: "ns".into(), name: account.into() };
            assert_eq!((auth.username.as_str(), used), (account, &Used::Account(own)));
            got.push(auth.password.clone());
        }
        assert_eq!(got, expect, "{cache}");
        assert_eq!(model.asked.lock()[0], "u 1 reg");
        // A pod from a file has no account, and this provider wants one.
        assert_eq!(providers.credentials("a.example.org/x", &of(""), &model).await, Vec::new());
        assert!(providers.concern_accounts("a.example.org/x") && !providers.concern_accounts("other.org/x"));
    }
    let (dir, model) = (tempfile::tempdir().unwrap(), Model::default());
    let providers = configured(dir.path(), script, &attributes("Token", "requiredServiceAccountAnnotationKeys: [absent]"));
    assert_eq!(providers.credentials("a.example.org/x", &of("a"), &model).await, Vec::new(), "it did not opt in");
    assert!(model.asked.lock().is_empty() && calls(dir.path()) == 0);
}

#[tokio::test]
async fn a_program_may_not_hand_a_token_on_to_all_of_an_account() {
    let script = r#"token=$(sed -n 's/.*"serviceAccountToken":"\([^"]*\)".*/\1/p')
echo '{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderResponse","cacheKeyType":"Image","auth":{"*.example.org":{"username":"u","password":"'$token'"}}}'"#;
    for (cache, count) in [("ServiceAccount", 0), ("Token", 1)] {
        let dir = tempfile::tempdir().unwrap();
        let one = tokens(&format!("{{serviceAccountTokenAudience: reg, cacheType: {cache}, requireServiceAccount: false}}"));
        let found = configured(dir.path(), script, &one).credentials("a.example.org/x", &of("a"), &Model::default()).await;
        assert_eq!(found.len(), count, "{cache}");
    }
}
