//! Tests of [`super`]: what is chosen, and how it is kept.

use super::*;
use proptest::prelude::*;

fn kept() -> Contexts {
    let context =
        |server: &str, token: &str| Context { server: server.into(), token: Some(token.into()), ..Context::default() };
    let contexts = BTreeMap::from([
        ("lab".to_owned(), context("https://lab.example:8443", "smn_lab")),
        ("home".to_owned(), context("http://127.0.0.1:8080", "smn_home")),
        ("admin".to_owned(), context("https://lab.example:8443/", "smn_admin")),
    ]);
    Contexts { current: Some("lab".into()), contexts, token_alone: Some("smn_old".into()) }
}

fn check(given: &Given, expect: Result<(&str, Option<&str>), &str>) {
    match (choose(&kept(), given), expect) {
        (Ok(found), Ok((server, token))) => {
            assert_eq!((found.with.server.as_str(), found.with.token.as_deref()), (server, token), "{given:?}");
        }
        (Err(why), Err(part)) => assert!(why.contains(part), "{given:?}: {why}"),
        (found, expect) => panic!("{given:?}: {found:?}, expected {expect:?}"),
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn the_current_context_is_used_where_nothing_is_said() {
    check(&Given::default(), Ok(("https://lab.example:8443", Some("smn_lab"))));
}

#[test]
fn a_context_is_named_by_flag_or_environment_and_the_flag_goes_first() {
    let given = Given { context: some("home"), context_of_environment: some("admin"), ..Given::default() };
    check(&given, Ok(("http://127.0.0.1:8080", Some("smn_home"))));
    check(&Given { context: None, ..given }, Ok(("https://lab.example:8443/", Some("smn_admin"))));
    check(&Given { context: some("moon"), ..Given::default() }, Err("there are admin, home, lab"));
}

#[test]
fn a_contexts_token_goes_to_no_other_server() {
    check(&Given { server: some("https://evil.example"), ..Given::default() }, Ok(("https://evil.example", None)));
    let near = Given { server: some("http://lab.example:8443"), ..Given::default() };
    check(&near, Ok(("http://lab.example:8443", None)));
    let both = Given { server: some("https://evil.example"), context: some("lab"), ..Given::default() };
    check(&both, Err("leave one of the two out"));
    let environment =
        Given { server: some("https://evil.example"), context_of_environment: some("lab"), ..Given::default() };
    check(&environment, Ok(("https://evil.example", None)));
}

#[test]
fn a_server_that_is_given_finds_its_context() {
    let given = Given { server: some("http://127.0.0.1:8080/"), ..Given::default() };
    check(&given, Ok(("http://127.0.0.1:8080/", Some("smn_home"))));
    let current = Given { server: some("HTTPS://Lab.example:8443"), ..Given::default() };
    check(&current, Ok(("HTTPS://Lab.example:8443", Some("smn_lab"))));
    let mut other = kept();
    other.current = some("home");
    let why = choose(&other, &current).unwrap_err();
    assert!(why.contains("admin, lab"), "{why}");
}

#[test]
fn a_token_that_is_given_goes_first() {
    let given = Given { token: some("smn_given"), ..Given::default() };
    check(&given, Ok(("https://lab.example:8443", Some("smn_given"))));
}

#[test]
fn the_token_from_before_contexts_is_still_read() {
    let old = Contexts { token_alone: some("smn_old"), ..Contexts::default() };
    let found = choose(&old, &Given::default()).unwrap();
    assert_eq!((found.with.server.as_str(), found.with.token.as_deref()), (DEFAULT_SERVER, Some("smn_old")));
}

#[test]
fn a_login_keeps_the_name_of_its_server() {
    let kept = kept();
    assert_eq!(kept.name_for(None, "https://lab.example:8443").unwrap(), "lab");
    assert_eq!(kept.name_for(None, "https://new.example").unwrap(), "default");
    assert_eq!(kept.name_for(Some("lab"), "https://lab.example:8443/").unwrap(), "lab");
    assert!(kept.name_for(Some("lab"), "https://new.example").unwrap_err().contains("another name"));
    for bad in ["", "a b", "ラボ", &"x".repeat(65)] {
        assert!(kept.name_for(Some(bad), "https://new.example").unwrap_err().contains("letters"), "{bad}");
    }
}

#[test]
fn what_is_kept_is_for_its_owner_only_and_comes_back() {
    let folder = std::env::temp_dir().join(format!("senmon-contexts-{}", uuid::Uuid::now_v7()));
    assert_eq!(load_from(&folder).unwrap(), Contexts::default());
    save(&folder, &Contexts::default()).unwrap();
    save(&folder, &kept()).unwrap();
    fs::write(folder.join("token"), "smn_old\n").unwrap();
    assert_eq!(load_from(&folder).unwrap(), kept());
    assert_eq!(fs::metadata(file(&folder)).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    fs::write(file(&folder), "curent: lab\n").unwrap();
    assert!(load_from(&folder).unwrap_err().to_string().contains("curent"));
    fs::remove_dir_all(&folder).unwrap();
}

proptest! {
    /// Whatever is kept and given: a token that was not given leaves only for the server that it was kept for.
    #[test]
    fn no_kept_token_ever_leaves_for_another_server(
        servers in proptest::collection::vec(0_usize..4, 0..5),
        current in proptest::option::of(0_usize..5),
        named in proptest::option::of(0_usize..5),
        environment in proptest::option::of(0_usize..5),
        server in proptest::option::of(0_usize..4),
    ) {
        let address = |i: usize| ["https://a.example", "https://a.example:8443", "http://a.example", "https://b.example/x"][i].to_owned();
        let name = |i: usize| format!("c{i}");
        let contexts: BTreeMap<String, Context> = servers.iter().enumerate()
            .map(|(i, at)| (name(i), Context { server: address(*at), token: Some(address(*at)), ..Context::default() }))
            .collect();
        let kept = Contexts { current: current.map(name), contexts, token_alone: None };
        let given = Given { context: named.map(name), context_of_environment: environment.map(name), server: server.map(address), ..Given::default() };
        if let Ok(chosen) = choose(&kept, &given) && let Some(token) = chosen.with.token {
            prop_assert_eq!(token, chosen.with.server);
        }
    }
}
