//! Modules that know of each other in a circle cannot be read one after another.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Literal, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, LitStr, Meta, UseTree};

/// Module → those that its product code names.
type Named = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_module_of_the_command_line_is_in_a_circle() {
    let named = named("cli");
    assert!(named.len() > 50 && named["commands::issue"].contains("context"), "{named:?}");
    assert_eq!(circles(&named), [""; 0]);
    let above = |from: &str| ["args", "commands"].contains(&from) || from.starts_with("commands::");
    for (from, to) in named.iter().filter(|(from, _)| !above(from) && !from.is_empty()) {
        assert!(!to.iter().any(|to| to.starts_with("commands")), "{from} names a command");
    }
}

#[test]
fn no_module_of_identity_is_in_a_circle() {
    let named = named_with_parents("identity");
    assert!(named["feed"].contains("feed::item") && named["verify"].contains("revocations"));
    assert_eq!(circles(&named), [""; 0]);
}

#[test]
fn no_module_of_the_api_is_in_a_circle() {
    let named = named_with_parents("api");
    assert!(named[""].contains("keys") && named["keys"].contains("fleet"));
    assert_eq!(circles(&named), [""; 0]);
}

#[test]
fn no_module_of_issuance_is_in_a_circle() {
    let named = named_with_parents("issuance");
    assert!(named[""].contains("profile") && named["profile"].contains("issuer"));
    assert_eq!(circles(&named), [""; 0]);
}

#[test]
fn no_file_of_a_folder_below_the_engine_is_in_a_circle_of_that_folder() {
    let named = named_with_parents("authority");
    let mut found = Vec::new();
    for folder in ["policy", "sequencer", "signer", "store"] {
        let named = within(&named, folder);
        assert!(named.len() > 3 && named.values().any(|to| !to.is_empty()), "{named:?}");
        found.extend(circles(&named).into_iter().map(ToOwned::to_owned));
    }
    assert_eq!(found, [""; 0]);
}

#[test]
fn no_module_of_the_library_is_in_a_circle() {
    let named = named("sidecar");
    assert!(named.len() > 50 && named["verification"].contains("connections"), "{named:?}");
    assert_eq!(circles(&named), [""; 0]);
}

#[test]
fn folders_of_the_library_are_told_in_the_order_in_which_they_know_each_other() {
    let named = named("sidecar");
    let folders = folders(&named);
    assert_eq!(circles(&folders), [""; 0]);
    let source = source_of("sidecar").join("lib.rs");
    let told = fs::read_to_string(source).unwrap();
    let told = told.lines().filter_map(|line| line.strip_prefix("//! | `")?.split('`').next());
    let order: Vec<&str> = told.filter(|name| !name.starts_with("countersign_")).collect();
    let place = |folder: &str| order.iter().position(|it| *it == folder);
    for (from, to) in &folders {
        let is_folder = named.keys().any(|module| module.starts_with(&format!("{from}::")));
        assert_eq!(place(from).is_some(), is_folder, "{from}: what is told are the folders");
        let later = to.iter().find(|to| place(from).is_some() && place(to) > place(from));
        assert_eq!(later, None, "{from} is told before it");
    }
}

#[test]
fn no_module_of_the_engine_is_in_a_circle_nor_is_a_folder_of_it() {
    let named = named("authority");
    assert!(named.len() > 100 && named["issuing"].contains("writer"), "{named:?}");
    assert_eq!(circles(&named), [""; 0]);
    assert_eq!(circles(&folders(&named)), [""; 0]);
}

#[test]
fn no_module_of_the_service_is_in_a_circle() {
    let named = named("server");
    assert!(named.len() > 25 && named["openapi"].contains("routes::described"), "{named:?}");
    assert_eq!(circles(&named), [""; 0]);
}

#[test]
fn a_circle_is_found_and_what_only_leads_to_it_is_not_in_it() {
    let named = |all: &[(&str, &[&str])]| -> Named {
        let set = |to: &[&str]| to.iter().map(ToString::to_string).collect();
        all.iter().map(|(from, to)| ((*from).to_owned(), set(to))).collect()
    };
    let all = named(&[("a", &["b"]), ("b", &["c", "d"]), ("c", &["b"]), ("d", &[])]);
    assert_eq!(circles(&all), ["b", "c"]);
}

#[test]
fn every_way_to_name_a_module_is_seen_and_tests_are_not() {
    let modules = ["", "a", "a::b", "c", "d", "e", "f", "g", "h"].map(ToOwned::to_owned);
    let source = "
        use crate::c::{Thing, other};
        #[error(\"{}\", crate::d::told(.0))]
        pub(crate) struct Told(#[serde(with = \"crate::h\")] u8);
        pub(crate) fn all() -> crate::e::It { super::from_above(); format!(\"{}\", crate::g::text()) }
        fn exported() -> crate::Thing {}
        #[cfg(test)] enum Seam { It(crate::f::It) }
        #[cfg(all(test, unix))] mod tests { use crate::f; }
        #[cfg(test)] mod told;
        #[cfg(test)] fn seam() -> crate::f::It {}";
    assert_eq!(test_modules("a::b", source), ["a::b::told"]);
    let found = names("a::b", source, &modules.into());
    assert_eq!(found, ["", "a", "c", "d", "e", "g", "h"].map(ToOwned::to_owned).into());
}

/// Those modules that lead back to themselves.
fn circles(named: &Named) -> Vec<&str> {
    let leads_back = |from: &&String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![*from]);
        while let Some(module) = next.pop() {
            next.extend(named[module].iter().filter(|to| seen.insert(*to)));
        }
        seen.contains(from)
    };
    named.keys().filter(leads_back).map(String::as_str).collect()
}

/// The outermost folder or file → those that it names.
fn folders(named: &Named) -> Named {
    let outermost = |module: &str| module.split("::").next().unwrap().to_owned();
    let mut folders = Named::new();
    for (from, to) in named {
        let of = folders.entry(outermost(from)).or_default();
        of.extend(to.iter().map(|to| outermost(to)).filter(|to| *to != outermost(from)));
    }
    folders
}

/// Without those that a module is in: they are read together. But the root, which names all that others
/// may use.
fn named(crate_folder: &str) -> Named {
    let mut named = named_with_parents(crate_folder);
    for (from, to) in &mut named {
        to.retain(|to| to.is_empty() || !from.starts_with(&format!("{to}::")));
    }
    named
}

fn source_of(crate_folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../src").join(crate_folder).join("src")
}

/// Only what lies in a folder.
fn within(named: &Named, folder: &str) -> Named {
    let is_within = |name: &&String| *name == folder || name.starts_with(&format!("{folder}::"));
    let named = named.iter().filter(|(from, _)| is_within(from));
    named.map(|(from, to)| (from.clone(), to.iter().filter(is_within).cloned().collect())).collect()
}

fn named_with_parents(crate_folder: &str) -> Named {
    let root = source_of(crate_folder);
    let mut files = Vec::new();
    collect(&root, &mut files);
    let module = |file: &PathBuf| {
        let within = file.strip_prefix(&root).unwrap().with_extension("");
        let parts: Vec<_> = within.iter().map(|part| part.to_str().unwrap()).collect();
        let parts = match parts.split_last() {
            Some((&("mod" | "main" | "lib"), folder)) => folder,
            _ => &parts[..],
        };
        parts.join("::")
    };
    let source = |file: &PathBuf| fs::read_to_string(file).unwrap();
    let tests: Vec<_> =
        files.iter().flat_map(|file| test_modules(&module(file), &source(file))).collect();
    // Tests that have a file of their own name what they test.
    files.retain(|file| !tests.contains(&module(file)));
    let modules: BTreeSet<String> = files.iter().map(module).collect();
    let of = |file: &PathBuf| (module(file), names(&module(file), &source(file), &modules));
    files.iter().map(of).collect()
}

/// Those that a module declares for tests alone, and that have a file of their own.
fn test_modules(from: &str, source: &str) -> Vec<String> {
    let declared =
        syn::parse_file(source).unwrap().items.into_iter().filter_map(|item| match item {
            Item::Mod(module) if module.content.is_none() => Some(module),
            _ => None,
        });
    let for_tests = declared.filter(|module| module.attrs.iter().any(is_for_tests));
    let path = |name: String| if from.is_empty() { name } else { format!("{from}::{name}") };
    for_tests.map(|module| path(module.ident.to_string())).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => collect(&path, files),
            false if path.extension().is_some_and(|is| is == "rs") => files.push(path),
            false => {}
        }
    }
}

/// The other modules that the product code of one names.
fn names(from: &str, source: &str, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let mut paths = Paths(Vec::new());
    paths.visit_file(&syn::parse_file(source).unwrap());
    let resolved = paths.0.iter().filter_map(|path| resolve(from, path, modules));
    resolved.filter(|to| to != from).collect()
}

/// The innermost module that a path goes through; none where it leads out of the crate.
fn resolve(from: &str, path: &[String], modules: &BTreeSet<String>) -> Option<String> {
    let mut base: Vec<&str> = from.split("::").filter(|part| !part.is_empty()).collect();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => (base, rest) = (vec![], &path[1..]),
        "super" => {
            while rest.first().is_some_and(|part| part == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        "self" => rest = &path[1..],
        _ => {}
    }
    let is_relative = rest.len() == path.len();
    (0..=rest.len()).rev().find_map(|length| {
        let parts = base.iter().copied().chain(rest[..length].iter().map(String::as_str));
        let module = parts.collect::<Vec<_>>().join("::");
        (modules.contains(&module) && !(is_relative && length == 0)).then_some(module)
    })
}

/// The paths in a file that may lead to modules of the same crate.
struct Paths(Vec<Vec<String>>);

impl Paths {
    fn expand(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: String| before.iter().cloned().chain([name]).collect::<Vec<_>>();
        match tree {
            UseTree::Path(path) => self.expand(&with(path.ident.to_string()), &path.tree),
            UseTree::Name(name) => self.0.push(with(name.ident.to_string())),
            UseTree::Rename(name) => self.0.push(with(name.ident.to_string())),
            UseTree::Glob(_) => self.0.push(before.to_vec()),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.expand(before, tree)),
        }
    }
}

impl Paths {
    /// What is written for a macro: the paths in it that say where they begin.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Option<Vec<String>> = None;
        for token in tokens {
            match token {
                TokenTree::Ident(word) => {
                    let (word, begun) = (word.to_string(), path.take());
                    path = match begun {
                        Some(begun) => Some([begun, vec![word]].concat()),
                        None => ["crate", "super"].contains(&&*word).then(|| vec![word]),
                    };
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => {}
                other => {
                    self.0.extend(path.take());
                    match other {
                        TokenTree::Group(group) => self.tokens(group.stream()),
                        TokenTree::Literal(literal) => self.0.extend(path_in(&literal)),
                        _ => {}
                    }
                }
            }
        }
        self.0.extend(path);
    }
}

/// The path that a text is, as attributes take one, where it says where it begins.
fn path_in(literal: &Literal) -> Option<Vec<String>> {
    let text: LitStr = syn::parse_str(&literal.to_string()).ok()?;
    let path: syn::Path = text.parse().ok()?;
    let path: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
    ["crate", "super"].contains(&&*path[0]).then_some(path)
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        if !attributes(item).iter().any(is_for_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !item.attrs.iter().any(is_for_tests) {
            self.expand(&[], &item.tree);
        }
    }

    /// `pub(crate)` names nobody.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
        }
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.tokens(called.tokens.clone());
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes = match item {
            ImplItem::Const(item) => &item.attrs[..],
            ImplItem::Fn(item) => &item.attrs,
            _ => &[],
        };
        if !attributes.iter().any(is_for_tests) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        _ => &[],
    }
}

fn is_for_tests(attribute: &Attribute) -> bool {
    let Ok(list) = attribute.meta.require_list() else { return false };
    let tokens = list.tokens.to_string();
    let words: Vec<&str> = tokens.split(|c: char| !c.is_alphanumeric() && c != '"').collect();
    list.path.is_ident("cfg") && words.contains(&"test") && !words.contains(&"not")
}
