//! Layouts through the reader: every packing, every way to name an image, every lie.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;

use serde_json::{Value, json};

use super::*;
use crate::ramdisk;
use crate::tree::Kind;

pub(crate) mod layout;

use layout::{Layer, Layout, OCI_INDEX, archive, one_image, plain, with};

fn read_tag(layout: &Layout, tag: Option<&str>, limit: u64) -> Result<OciImage, Error> {
    let reference =
        OciReference { layout: layout.path().to_owned(), tag: tag.map(ToOwned::to_owned) };
    let spool_folder = tempfile::tempdir().unwrap();
    let result = read(&reference, spool_folder.path(), limit, TreeLimits::DEFAULT, &mut |_, _| {});
    assert_eq!(fs::read_dir(spool_folder.path()).unwrap().count(), 0, "the spool has a name");
    result
}

fn open(layout: &Layout) -> Result<OciImage, Error> {
    read_tag(layout, None, 1 << 30)
}

fn refusal(layout: &Layout) -> String {
    open(layout).err().unwrap().to_string()
}

/// All files of an image with their contents.
fn contents(image: &OciImage) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for file in image.tree.walk() {
        let path = String::from_utf8(file.path).unwrap();
        if let Kind::File(content) = &file.node.kind {
            let mut text = String::new();
            ramdisk::open(content, Some(&image.spool)).unwrap().read_to_string(&mut text).unwrap();
            found.insert(path, text);
        }
    }
    found
}

fn files(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn reads_layers_of_every_packing() {
    let layers = [
        plain(&[("bin/", ""), ("bin/app", "one"), ("etc/conf", "old"), ("gone", "x")]),
        Layer { archive: archive(&[("etc/conf", "new"), (".wh.gone", "")]), packing: "+gzip" },
        Layer { archive: archive(&[("bin/again=>bin/app", ""), ("l->bin", "")]), packing: "+zstd" },
    ];
    let config = json!({
        "Entrypoint": ["/bin/app"], "Cmd": ["-v"], "Env": ["A=1"], "WorkingDir": "/etc", "User": "7",
    });
    let image = open(&one_image(&layers, &config)).unwrap();
    assert_eq!(
        contents(&image),
        files(&[("bin/again", "one"), ("bin/app", "one"), ("etc/conf", "new")])
    );
    assert_eq!(image.cmd, ["/bin/app", "-v"]);
    assert_eq!(image.env, ["A=1"]);
    assert_eq!((image.workdir.as_deref(), image.user.as_deref()), (Some("/etc"), Some("7")));
    assert_eq!(image.created.as_deref(), Some("2026-01-02T03:04:05.6Z"));
    assert_eq!(image.id.len(), 64);
    let app = image.tree.resolve(b"l/app", true).unwrap();
    let attributes = image.tree.node(app).attributes;
    assert_eq!((attributes.permissions, attributes.uid, attributes.gid), (0o755, 7, 8));
}

#[test]
fn an_empty_image_with_null_settings_is_one() {
    let nothing =
        json!({"Entrypoint": null, "Cmd": null, "Env": null, "User": "", "WorkingDir": ""});
    let image = open(&one_image(&[], &nothing)).unwrap();
    assert!(image.cmd.is_empty() && image.env.is_empty());
    assert_eq!((image.workdir, image.user), (None, None));
    let layout = one_image(&[], &Value::Null);
    assert!(open(&layout).is_ok());
}

#[test]
fn a_gzip_of_several_parts_is_one_archive() {
    let whole = archive(&[("a", "one"), ("b", "two")]);
    let layout = Layout::new();
    let image = layout.image(
        &[Layer { archive: whole.clone(), packing: "" }],
        &Value::Null,
        |_, manifest| {
            let (front, back) = whole.split_at(700);
            let packed: Vec<u8> = [front, back]
                .iter()
                .flat_map(|part| {
                    let mut encoder =
                        flate2::read::GzEncoder::new(*part, flate2::Compression::fast());
                    let mut packed = Vec::new();
                    encoder.read_to_end(&mut packed).unwrap();
                    packed
                })
                .collect();
            let media_type = "application/vnd.docker.image.rootfs.diff.tar.gzip";
            manifest["layers"] = json!([layout.blob(media_type, &packed)]);
        },
    );
    layout.index(&[image]);
    assert_eq!(contents(&open(&layout).unwrap()), files(&[("a", "one"), ("b", "two")]));
}

#[test]
fn images_are_found_by_tag_and_platform() {
    let layout = Layout::new();
    let image = |name: &str| layout.image(&[plain(&[(name, "")])], &Value::Null, |_, _| {});
    let named = |name: &str, key: &str, value: &str| {
        let mut annotations = serde_json::Map::new();
        annotations.insert(key.to_owned(), json!(value));
        with(image(name), "annotations", Value::Object(annotations))
    };
    let reference = "org.opencontainers.image.ref.name";
    let signature = with(image("s"), "mediaType", json!("application/vnd.example.signature"));
    layout.index(&[
        named("one", reference, "v1"),
        named("two", reference, "example.org/app:v2"),
        named("three", "io.containerd.image.name", "docker.io/library/app:v3"),
        signature,
    ]);
    for (tag, file) in
        [("v1", "one"), ("v2", "two"), ("example.org/app:v2", "two"), ("v3", "three")]
    {
        let image = read_tag(&layout, Some(tag), 1 << 20).unwrap();
        assert!(contents(&image).contains_key(file), "{tag}");
    }
    let error = read_tag(&layout, Some("v4"), 1).err().unwrap();
    let text = error.to_string();
    assert!(text.starts_with("no image `v4` in "), "{text}");
    assert!(
        text.ends_with("there are: v1, example.org/app:v2, docker.io/library/app:v3"),
        "{text}"
    );
    let error = open(&layout).err().unwrap();
    assert!(matches!(error, Error::WhichImage { count: 3, .. }), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn an_index_leads_to_the_image_for_this_platform() {
    let layout = Layout::new();
    let image = |name: &str, os: &str, architecture: &str| {
        let image = layout.image(&[plain(&[(name, "")])], &Value::Null, |_, _| {});
        with(image, "platform", json!({"os": os, "architecture": architecture}))
    };
    let arm = image("arm", "linux", "arm64");
    let amd = image("amd", "linux", "amd64");
    let attestation = image("attestation", "unknown", "unknown");
    let inner = json!({"schemaVersion": 2, "manifests": [arm, amd, attestation]});
    let inner = layout.document(OCI_INDEX, &inner);
    layout.index(std::slice::from_ref(&inner));
    assert!(contents(&open(&layout).unwrap()).contains_key("amd"));
    layout.index(&[arm.clone(), amd]);
    assert!(contents(&open(&layout).unwrap()).contains_key("amd"));

    let foreign = layout.document(OCI_INDEX, &json!({"manifests": [arm, attestation]}));
    layout.index(&[foreign]);
    assert_eq!(refusal(&layout), "image is for linux/arm64, unknown/unknown, expected linux/amd64");
    let mut deep = inner;
    for _ in 0..5 {
        deep = layout.document(OCI_INDEX, &json!({"manifests": [deep]}));
    }
    layout.index(&[deep]);
    assert!(refusal(&layout).contains("indexes in indexes"));
}

#[test]
fn an_image_for_another_machine_is_refused() {
    let layout = Layout::new();
    let image = layout.image(&[], &Value::Null, |config, _| {
        config["architecture"] = json!("arm64\u{1b}[31m");
    });
    layout.index(&[image]);
    assert_eq!(refusal(&layout), "image is for linux/arm64\\u{1b}[31m, expected linux/amd64");
}

#[test]
fn blobs_must_be_what_they_are_named() {
    let make = || one_image(&[plain(&[("a", "text")])], &Value::Null);
    let names = |layout: &Layout| -> Vec<_> {
        let blobs = fs::read_dir(layout.path().join("blobs/sha256")).unwrap();
        blobs.map(|entry| entry.unwrap().path()).collect()
    };
    for index in 0..3 {
        let layout = make();
        let blob = &names(&layout)[index];
        let mut bytes = fs::read(blob).unwrap();
        // A change that leaves JSON what it is, and a tar archive too: the checksum of a header does
        // not cover the file's data.
        let at = if bytes.len() > 600 { 512 } else { bytes.len() - 1 };
        bytes[at] = if bytes.len() > 600 { b'T' } else { b' ' };
        fs::write(blob, &bytes).unwrap();
        let error = open(&layout).err().unwrap();
        assert!(matches!(error, Error::Digest { .. }), "{error}");

        let layout = make();
        let blob = &names(&layout)[index];
        fs::write(blob, [fs::read(blob).unwrap(), b" ".to_vec()].concat()).unwrap();
        let error = open(&layout).err().unwrap();
        assert!(matches!(error, Error::BlobSize { .. }), "{error}");

        let layout = make();
        fs::remove_file(&names(&layout)[index]).unwrap();
        let error = open(&layout).err().unwrap();
        assert!(matches!(error, Error::Io { action: "open", .. }), "{error}");
    }
}

#[test]
fn the_archive_must_be_the_one_the_configuration_names() {
    let layout = Layout::new();
    let image = layout.image(&[plain(&[("a", "")])], &Value::Null, |config, _| {
        config["rootfs"]["diff_ids"] = json!([layout::sha256(b"another")]);
    });
    layout.index(&[image]);
    assert!(matches!(open(&layout), Err(Error::Digest { .. })));
    let image = layout.image(&[plain(&[("a", "")])], &Value::Null, |config, _| {
        config["rootfs"]["diff_ids"] = json!([]);
    });
    layout.index(&[image]);
    assert!(refusal(&layout).ends_with("0 diff_ids for 1 layers of the manifest"));
}

#[test]
fn digests_cannot_name_other_files() {
    for digest in ["sha256:../../../../etc/passwd", "sha1:00", "sha256:", "../x", "sha256:ABCD"] {
        let layout = Layout::new();
        layout.index(&[json!({"mediaType": layout::OCI_MANIFEST, "digest": digest, "size": 3})]);
        let text = refusal(&layout);
        assert!(text.contains("is not sha256 or sha512 in lower-case hexadecimal"), "{text}");
    }
}

#[test]
fn documents_that_are_none_are_named() {
    let layout = one_image(&[], &Value::Null);
    fs::write(layout.path().join("index.json"), "[".repeat(10_000)).unwrap();
    assert!(refusal(&layout).starts_with("index.json: "));
    fs::write(layout.path().join("index.json"), vec![b' '; (4 << 20) + 1]).unwrap();
    assert!(refusal(&layout).ends_with("index.json: more than 4194304 bytes"));
    fs::write(layout.path().join("index.json"), "{}").unwrap();
    assert!(refusal(&layout).ends_with("there are: none"));
    fs::write(layout.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0"}"#).unwrap();
    assert_eq!(refusal(&layout), "oci-layout: version `2.0`, expected 1.x");
    fs::remove_file(layout.path().join("oci-layout")).unwrap();
    assert!(matches!(open(&layout), Err(Error::Io { action: "open", .. })));
}

#[test]
fn unknown_packings_are_named() {
    let layout = Layout::new();
    let image = layout.image(&[], &Value::Null, |config, manifest| {
        let blob = layout.blob("application/vnd.oci.image.layer.v1.tar+lzma", b"x");
        config["rootfs"]["diff_ids"] = json!([layout::sha256(b"x")]);
        manifest["layers"] = json!([blob]);
    });
    layout.index(&[image]);
    let text = refusal(&layout);
    assert!(
        text.ends_with("media type `application/vnd.oci.image.layer.v1.tar+lzma` is not known"),
        "{text}"
    );
}

#[test]
fn what_unpacks_without_end_is_an_error() {
    let zeros = archive(&[("zeros", &"\0".repeat(3 << 20))]);
    for packing in ["+gzip", "+zstd", ""] {
        let layer = Layer { archive: zeros.clone(), packing };
        let layout = one_image(&[layer], &Value::Null);
        let error = read_tag(&layout, None, 1 << 20).err().unwrap();
        assert_eq!(error.to_string(), "image has more than 1048576 unpacked bytes", "{packing}");
        assert!(error.hint().unwrap().contains("--max-unpacked"));
        assert!(read_tag(&layout, None, 4 << 20).is_ok());
    }
    // Exactly as much as is allowed is allowed.
    let layout = one_image(&[Layer { archive: zeros.clone(), packing: "+gzip" }], &Value::Null);
    assert!(read_tag(&layout, None, zeros.len() as u64).is_ok());
    assert!(read_tag(&layout, None, zeros.len() as u64 - 1).is_err());
    // Behind the end of the archive, too.
    let long = [archive(&[("a", "")]), vec![0; 2 << 20]].concat();
    let layout = one_image(&[Layer { archive: long, packing: "+gzip" }], &Value::Null);
    assert!(matches!(read_tag(&layout, None, 1 << 20), Err(Error::Limit { .. })));
}

#[test]
fn dangerous_entries_are_refused_by_name() {
    let mut bytes = archive(&[("aa/up", "x")]);
    bytes[..5].copy_from_slice(b"../up");
    let sum: u32 = bytes[..512]
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
        .sum();
    bytes[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let layout = one_image(&[Layer { archive: bytes, packing: "" }], &Value::Null);
    assert_eq!(refusal(&layout), "layer 1, entry `../up`: `..` in its path");
    let layout = one_image(&[plain(&[("a=>b", "")])], &Value::Null);
    assert_eq!(refusal(&layout), "layer 1, entry `a`: hard link: `b` is not there");
    let layout = one_image(&[plain(&[("a", "x")]), plain(&[("a/b", "y")])], &Value::Null);
    assert!(refusal(&layout).starts_with("layer 2, entry `a/b`: its folder goes through"));
}

#[test]
fn junk_in_place_of_a_layer_is_named() {
    for packing in ["", "+gzip", "+zstd"] {
        let layout = Layout::new();
        let junk = vec![b'j'; 5000];
        let image = layout.image(&[], &Value::Null, |config, manifest| {
            let media_type = format!("application/vnd.oci.image.layer.v1.tar{packing}");
            config["rootfs"]["diff_ids"] = json!([layout::sha256(&junk)]);
            manifest["layers"] = json!([layout.blob(&media_type, &junk)]);
        });
        layout.index(&[image]);
        let error = open(&layout).err().unwrap();
        assert!(matches!(error, Error::Archive { .. }), "{packing}: {error}");
    }
}

#[test]
fn a_folder_in_place_of_a_file_is_named() {
    let layout = one_image(&[], &Value::Null);
    let index = layout.path().join("index.json");
    fs::remove_file(&index).unwrap();
    fs::create_dir(&index).unwrap();
    assert!(refusal(&layout).ends_with("index.json`: it is not a regular file"));
}

#[test]
fn a_reference_is_a_folder_and_perhaps_a_tag() {
    let parse = |text: &str| {
        let OciReference { layout, tag } = OciReference::parse(text);
        (layout.display().to_string(), tag)
    };
    assert_eq!(parse("./layout"), ("./layout".into(), None));
    assert_eq!(parse("./layout:v1"), ("./layout".into(), Some("v1".into())));
    assert_eq!(parse("a:b/layout"), ("a:b/layout".into(), None));
    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join("with:colon");
    fs::create_dir(&odd).unwrap();
    let text = odd.display().to_string();
    assert_eq!(parse(&text), (text.clone(), None));
    assert_eq!(parse(&format!("{text}:v1")), (text, Some("v1".into())));
}
