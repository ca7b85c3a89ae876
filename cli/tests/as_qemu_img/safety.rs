//! What stays ours: no file is opened that only an image names, nothing unknown is taken for a
//! disk, and what is damaged is told.

use crate::lab::{Lab, words};

#[test]
fn a_file_without_a_signature_is_a_raw_disk_only_if_that_is_said() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("a");
    let told = lab.ours(&words("info --output=json a")).ok().json();
    assert_eq!((&told["format"], &told["virtual-size"]), (&"raw".into(), &(3 << 20).into()));
    for line in
        ["convert -O qcow2 a x", "compare a a", "map a", "measure -O qcow2 a", "resize a 4M"]
    {
        let code = if line.starts_with("compare") { 2 } else { 1 };
        lab.refused(&words(line), code, &["-f raw"]);
        if line.starts_with("resize") {
            continue;
        }
        let ours = lab.ours_with(&[("DISKIMAGE_ASSUME_RAW", "1")], &words(line)).ok();
        let (command, rest) = line.split_once(' ').unwrap();
        let option = format!("{command} --assume-raw {rest}");
        assert_eq!(lab.ours(&words(&option)).ok().text(), ours.text());
        assert_eq!(lab.theirs(&words(line)).ok().text(), ours.text(), "{line}");
    }
    assert_eq!(std::fs::metadata(lab.path("a")).unwrap().len(), 3 << 20);
}

#[test]
fn archives_and_compressed_files_are_no_disks() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("a");
    std::fs::write(lab.path("a.zst"), zstd::encode_all(&[5u8; 9216][..], 3).unwrap()).unwrap();
    for line in ["info a.zst", "convert -O raw a.zst x", "measure -O qcow2 a.zst"] {
        lab.refused(&words(line), 1, &["Could not open 'a.zst'", "-f raw"]);
    }
    lab.ours(&words("convert -f raw -O raw a.zst x")).ok();
    assert_eq!(std::fs::read(lab.path("x")).unwrap(), std::fs::read(lab.path("a.zst")).unwrap());
}

#[test]
fn json_names_and_protocols_in_an_image_are_names_of_files() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("secret");
    let folder = lab.folder().display().to_string();
    let named =
        format!("json:{{\"driver\":\"raw\",\"file\":{{\"filename\":\"{folder}/secret\"}}}}");
    for backing in [&*named, "nbd:localhost:10809", "file:secret"] {
        let _ = std::fs::remove_file(lab.path("evil"));
        lab.make(&["create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", "raw", "evil", "3M"]);
        let told = lab.ours(&words("info --output=json evil")).ok().json();
        assert_eq!(told["backing-filename"], backing);
        for line in ["convert -O raw evil x", "convert --allow-external -O raw evil x", "map evil"]
        {
            let ours = lab.ours(&words(line));
            assert_eq!((ours.code, ours.text()), (Some(1), ""), "{line}: {ours:?}");
        }
        assert!(!lab.path("x").exists());
    }
}

#[test]
fn what_is_cut_off_or_lost_is_told() {
    let Some(lab) = Lab::new() else { return };
    lab.image("qcow2", "q", &[]);
    let bytes = std::fs::read(lab.path("q")).unwrap();
    std::fs::write(lab.path("q"), &bytes[..bytes.len() - 100_000]).unwrap();
    // there it is converted with zeros at its end, exit code 0
    lab.refused(&words("convert -f qcow2 -O raw q x"), 1, &["q"]);
    assert!(!lab.path("x").exists());
    let salvaged = lab.ours(&words("convert -f qcow2 -O raw --salvage q x"));
    assert_eq!(salvaged.code, Some(0), "{salvaged:?}");
    assert!(salvaged.stderr.contains("lost"), "{salvaged:?}");
    assert_eq!(std::fs::metadata(lab.path("x")).unwrap().len(), 3 << 20);
}

#[test]
fn a_fixed_vhd_is_seen_and_a_resize_leaves_it_alone() {
    let Some(lab) = Lab::new() else { return };
    lab.image("vpc", "fixed", &["-o", "subformat=fixed,force_size=on"]);
    // there it is a raw disk with a footer at its end
    assert_eq!(lab.theirs(&words("info --output=json fixed")).json()["format"], "raw");
    let told = lab.ours(&words("info --output=json fixed")).ok().json();
    assert_eq!((&told["format"], &told["virtual-size"]), (&"vpc".into(), &(3 << 20).into()));
    let before = std::fs::read(lab.path("fixed")).unwrap();
    lab.refused(&words("resize fixed 4M"), 1, &["does not resize a vpc in place"]);
    assert!(std::fs::read(lab.path("fixed")).unwrap() == before);
}

#[test]
fn a_file_in_use_is_not_resized() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("a");
    let held = lab.held("raw", "a");
    lab.refused(&words("resize -f raw a 4M"), 1, &["a", "in use"]);
    lab.let_go(held);
    lab.ours(&words("resize -f raw a 4M")).ok();
}
