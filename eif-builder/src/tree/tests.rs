//! Layers on layers: what replaces what, what hides what, and every path that tries to get out.

use proptest::prelude::*;

use super::*;

fn tree() -> Tree {
    Tree::new(TreeLimits::DEFAULT)
}

fn file(size: u64) -> Change {
    let content = Content::Spooled { offset: 0, size };
    Change::Put(Attributes::root(0o644), Kind::File(content))
}

fn folder() -> Change {
    Change::Put(Attributes::root(0o755), Kind::folder())
}

fn symlink(target: &str) -> Change {
    Change::Put(Attributes::root(0o777), Kind::Symlink(target.as_bytes().into()))
}

fn link(target: &str) -> Change {
    Change::Link(target.as_bytes().to_vec())
}

/// Applies changes that must be accepted.
fn apply(tree: &mut Tree, layer: u32, changes: Vec<(&str, Change)>) {
    for (path, change) in changes {
        tree.apply(path.as_bytes(), change, layer).unwrap().unwrap();
    }
}

fn refusal(tree: &mut Tree, path: &str, change: Change) -> String {
    tree.apply(path.as_bytes(), change, 9).unwrap().unwrap_err()
}

fn listing(tree: &Tree) -> Vec<String> {
    let text = |found: walk::Found<'_>| {
        let path = String::from_utf8(found.path).unwrap();
        match &found.node.kind {
            Kind::Folder(_) => format!("{path}/"),
            Kind::File(content) => format!("{path}={}", content.size()),
            Kind::Symlink(target) => format!("{path}->{}", String::from_utf8_lossy(target)),
            other => format!("{path} {}", other.noun()),
        }
    };
    tree.walk().map(text).collect()
}

#[test]
fn is_walked_sorted_with_folders_first() {
    let mut tree = tree();
    apply(
        &mut tree,
        1,
        vec![("b/c", file(1)), ("./a", file(2)), ("/b.d", file(3)), ("b", folder())],
    );
    // By bytes "b.d" would stand before "b/c"; by names it stands after.
    assert_eq!(listing(&tree), ["a=2", "b/", "b/c=1", "b.d=3"]);
}

#[test]
fn later_entries_replace_earlier_ones_but_folders_are_merged() {
    let mut tree = tree();
    apply(&mut tree, 1, vec![("d/x", file(1)), ("f", file(2)), ("g", folder()), ("g/y", file(3))]);
    let attributes = Attributes { permissions: 0o700, uid: 5, gid: 6 };
    let changed = Change::Put(attributes, Kind::folder());
    apply(&mut tree, 2, vec![("d", changed), ("d/z", file(4)), ("f", folder()), ("g", file(5))]);
    assert_eq!(listing(&tree), ["d/", "d/x=1", "d/z=4", "f/", "g=5"]);
    let d = tree.resolve(b"d", true).unwrap();
    assert_eq!(tree.node(d).attributes, attributes);
}

#[test]
fn whiteouts_hide_older_layers_only() {
    let mut tree = tree();
    apply(&mut tree, 1, vec![("a", file(1)), ("b", file(1)), ("d/x", file(1)), ("d/y", file(1))]);
    apply(
        &mut tree,
        2,
        vec![
            ("b", file(2)),
            (".wh.a", file(0)),
            (".wh.b", file(0)),
            (".wh.missing", file(0)),
            ("no/such/.wh.thing", file(0)),
            ("d/z", file(2)),
            (".wh.d", file(0)),
        ],
    );
    assert_eq!(listing(&tree), ["b=2", "d/", "d/z=2"]);
}

#[test]
fn an_opaque_folder_keeps_only_its_own_layer_in_any_order() {
    for opaque_first in [true, false] {
        let mut tree = tree();
        apply(&mut tree, 1, vec![("d/old", file(1)), ("d/sub/old", file(1)), ("other", file(1))]);
        let mut changes = vec![("d", folder()), ("d/new", file(2)), ("d/sub/new", file(2))];
        let at = if opaque_first { 0 } else { changes.len() };
        changes.insert(at, ("d/.wh..wh..opq", file(0)));
        apply(&mut tree, 2, changes);
        assert_eq!(listing(&tree), ["d/", "d/new=2", "d/sub/", "d/sub/new=2", "other=1"]);
    }
}

#[test]
fn whiteouts_of_nothing_are_refused_and_aufs_leftovers_passed_over() {
    let mut tree = tree();
    for path in [".wh.", "a/.wh.", ".wh..", ".wh..."] {
        assert_eq!(refusal(&mut tree, path, file(0)), "a whiteout of nothing");
    }
    let leftovers = vec![
        (".wh..wh.aufs", file(0)),
        (".wh..wh.plnk", folder()),
        (".wh..wh.plnk/12.34", file(1)),
    ];
    apply(&mut tree, 1, leftovers);
    assert_eq!(refusal(&mut tree, ".wh.a/b", file(1)), "a whiteout used as a folder");
    apply(&mut tree, 1, vec![("s", symlink(".wh.a"))]);
    assert_eq!(refusal(&mut tree, "s/b", file(1)), "its folder is not there");
    apply(&mut tree, 2, vec![(".wh.s", file(0))]);
    assert!(listing(&tree).is_empty());
}

#[test]
fn hard_links_share_one_file_across_layers() {
    let mut tree = tree();
    apply(&mut tree, 1, vec![("a", file(7))]);
    apply(&mut tree, 2, vec![("d/b", link("/a")), ("c", link("./d/b")), ("c", link("c"))]);
    let names = tree.names_per_node();
    let node = tree.resolve(b"a", false).unwrap();
    assert_eq!(tree.resolve(b"c", false), Ok(node));
    assert_eq!(names[node.index()], 3);
    // Replacing one name leaves the others.
    apply(&mut tree, 3, vec![("a", file(1)), (".wh.d", file(0))]);
    assert_eq!(listing(&tree), ["a=1", "c=7"]);
}

#[test]
fn hard_links_to_nothing_or_to_folders_are_refused() {
    let mut tree = tree();
    apply(&mut tree, 1, vec![("d", folder()), ("l", symlink("/etc/shadow"))]);
    assert_eq!(refusal(&mut tree, "x", link("d")), "hard link to a folder");
    assert_eq!(refusal(&mut tree, "x", link("/")), "hard link to a folder");
    assert_eq!(refusal(&mut tree, "x", link("no")), "hard link: `no` is not there");
    assert_eq!(refusal(&mut tree, "x", link("../d")), "hard link: `..` in its path");
    // The link itself, not what it points to.
    apply(&mut tree, 2, vec![("x", link("l"))]);
    assert_eq!(listing(&tree), ["d/", "l->/etc/shadow", "x->/etc/shadow"]);
}

#[test]
fn paths_that_try_to_get_out_are_refused() {
    let mut tree = tree();
    for path in ["../x", "a/../../x", "a/..", "/../x", ".wh.x/../y"] {
        assert_eq!(refusal(&mut tree, path, file(1)), "`..` in its path", "{path}");
    }
    assert_eq!(refusal(&mut tree, "a\0b", file(1)), "a NUL byte in its path");
    assert!(refusal(&mut tree, &"n".repeat(300), file(1)).contains("a name of 300 bytes"));
    for path in ["", "/", "./", "//."] {
        assert_eq!(refusal(&mut tree, path, file(1)), "the root is not a folder", "{path}");
    }
}

#[test]
fn links_lead_nowhere_but_into_the_tree() {
    let mut tree = tree();
    apply(
        &mut tree,
        1,
        vec![
            ("usr/lib", folder()),
            ("lib", symlink("usr/lib")),
            ("up", symlink("../../../../etc")),
            ("abs", symlink("/srv")),
            ("lib/a", file(1)),
            ("up/passwd", file(2)),
            ("abs/b", file(3)),
        ],
    );
    let expected = [
        "abs->/srv",
        "etc/",
        "etc/passwd=2",
        "lib->usr/lib",
        "srv/",
        "srv/b=3",
        "up->../../../../etc",
        "usr/",
        "usr/lib/",
        "usr/lib/a=1",
    ];
    assert_eq!(listing(&tree), expected);
    // A folder takes the place of a link to one, as in every engine.
    apply(&mut tree, 2, vec![("lib", folder())]);
    assert_eq!(tree.resolve(b"lib/a", true), Err(Lost::Missing));
}

#[test]
fn loops_end_and_files_are_no_folders() {
    let mut tree = tree();
    apply(
        &mut tree,
        1,
        vec![
            ("one", symlink("two")),
            ("two", symlink("one")),
            ("self", symlink("self/self")),
            ("grow", symlink("a/../grow/x")),
            ("a", folder()),
            ("f", file(1)),
        ],
    );
    for path in ["one/x", "self/x", "grow/x"] {
        let reason = refusal(&mut tree, path, file(1));
        assert_eq!(reason, "its folder goes through too many symlinks", "{path}");
    }
    assert_eq!(
        refusal(&mut tree, "f/x", file(1)),
        "its folder goes through something that is not a folder"
    );
    assert_eq!(
        refusal(&mut tree, "f/x/y", file(1)),
        "its folder goes through something that is not a folder"
    );
    let wide = vec!["a/.."; 5000].join("/");
    assert_eq!(tree.resolve(wide.as_bytes(), true), Err(Lost::Loop));
}

#[test]
fn depth_costs_no_stack() {
    let mut tree = tree();
    let deep = vec!["d"; 4000].join("/");
    apply(&mut tree, 1, vec![(&deep, file(1))]);
    assert_eq!(tree.walk().count(), 4000);
    assert!(refusal(&mut tree, &vec!["d"; 5000].join("/"), file(1)).contains("too many"));
}

#[test]
fn grows_no_larger_than_its_limits() {
    let mut few = Tree::new(TreeLimits { entries: 10, memory: 1 << 20 });
    let error = (0..20).find_map(|_| few.apply(b"same", file(1), 1).err()).unwrap();
    assert_eq!(error.to_string(), "image has more than 10 entries");
    let mut small = Tree::new(TreeLimits { entries: 1000, memory: 10_000 });
    let error = (0..100)
        .find_map(|index| small.apply(format!("f{index}").as_bytes(), file(1), 1).err())
        .unwrap();
    assert_eq!(error.to_string(), "image has more than 10000 bytes of names and attributes");
}

#[test]
fn mount_points_are_made_where_they_are_missing() {
    let mut tree = tree();
    apply(&mut tree, 1, vec![("dev/null", file(0)), ("run", symlink("var/run"))]);
    tree.ensure_mount_point("dev", 0o755).unwrap();
    tree.ensure_mount_point("tmp", 0o1777).unwrap();
    let error = tree.ensure_mount_point("run", 0o755).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`/run` in the image is a symlink; the enclave needs a folder there"
    );
    assert_eq!(listing(&tree), ["dev/", "dev/null=0", "run->var/run", "tmp/"]);
}

fn any_path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "a",
        "b",
        "c",
        "..",
        ".",
        "",
        ".wh.a",
        ".wh.b",
        ".wh..wh..opq",
        ".wh.",
        ".wh...",
    ]);
    prop::collection::vec(name, 0..5).prop_map(|names| names.join("/"))
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0..9_u64).prop_map(file),
        Just(()).prop_map(|()| folder()),
        any_path().prop_map(|target| symlink(&format!("/{target}"))),
        any_path().prop_map(|target| symlink(&format!("./{target}"))),
        any_path().prop_map(|target| link(&target)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever layers say, what comes out is a tree: every name once, in order, behind its folder, and
    /// no whiteout among them.
    #[test]
    fn any_layers_make_a_tree(
        entries in prop::collection::vec((any_path(), any_change(), 0..2_u32), 0..40),
    ) {
        let mut tree = tree();
        let mut layer = 1;
        for (path, change, step) in entries {
            layer += step;
            let _ = tree.apply(path.as_bytes(), change, layer).unwrap();
        }
        let mut previous: Option<Vec<Vec<u8>>> = None;
        for found in tree.walk() {
            let names: Vec<_> = components(&found.path).map(<[u8]>::to_vec).collect();
            prop_assert!(names.iter().all(|name| name != b".." && !name.starts_with(b".wh.")));
            prop_assert_eq!(names.join(&b'/'), found.path.clone());
            prop_assert_eq!(tree.resolve(&found.path, false), Ok(found.id));
            if let Some(previous) = previous {
                prop_assert!(previous < names);
            }
            previous = Some(names);
        }
    }
}
