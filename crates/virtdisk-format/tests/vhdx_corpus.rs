//! The real VHDX images: every one of the corpus, read through the map, is the disk that its table
//! says, and reading it changes nothing.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;

use std::sync::Arc;

use disk::{Disk, named, reading, writing};
use virtdisk_format::{Format, HintKind, Kind, Place, Result, Store};
use virtdisk_testkit::corpus::{Corpus, corpus_of, sample_named, sha256_of};
use virtdisk_testkit::{MemoryStore, Pages};

const MIB: u64 = 1 << 20;

fn pages(corpus: &Corpus, name: &str) -> Pages {
    Pages::from_bytes(&corpus.bytes(name))
}

/// Reads a child over its parent.
fn read_over(child: &Disk, parent: &Disk, buf: &mut [u8], offset: u64) -> Result<()> {
    for extent in child.extents(offset, buf.len() as u64)? {
        let from = (extent.start - offset) as usize;
        let part = &mut buf[from..from + extent.len as usize];
        match extent.place {
            Place::Parent => parent.read_at(part, extent.start)?,
            Place::Zero | Place::Data { .. } => child.read_at(part, extent.start)?,
        }
    }
    Ok(())
}

#[test]
fn every_plain_vhdx_of_the_corpus_reads_as_its_table_says() {
    let names = [
        ("fat-parent.vhdx", Kind::Fixed),
        ("ntfs-parent.vhdx", Kind::Fixed),
        ("ntfs-fixed.vhdx", Kind::Fixed),
        ("ntfs-dynamic.vhdx", Kind::Dynamic),
        ("hyperv-btrfs.vhdx", Kind::Dynamic),
        ("windows8-dynamic.vhdx", Kind::Dynamic),
    ];
    let corpus = match corpus_of(&names.map(|(name, _)| name)) {
        Ok(corpus) => corpus,
        Err(reason) => virtdisk_testkit::skip!("{reason}"),
    };
    for (name, kind) in names {
        let sample = sample_named(name);
        let pages = pages(&corpus, name);
        for options in [reading(), named("vhdx"), named("vhd"), writing()] {
            let store = Arc::new(MemoryStore::from_pages(pages.clone()));
            let disk = Disk::open(store.clone(), &options).unwrap();
            let facts = disk.image.facts();
            assert_eq!((facts.format, facts.kind), (Format::Vhdx, kind), "{name}");
            assert_eq!(facts.notices, [""; 0], "{name}");
            assert_eq!(disk.size(), sample.virtual_size, "{name}");
            assert!(facts.creator.starts_with("Microsoft Windows "), "{name}");
            assert!(!facts.identifier.is_nil() && !facts.content_id.is_nil());
            let whole = disk.image.whole();
            // One block, all of it there, is one run whatever the kind.
            let one_run = kind == Kind::Fixed || name == "ntfs-dynamic.vhdx";
            assert_eq!(whole.is_some(), one_run, "{name}");
            disk.image.validate().unwrap();
            //
            disk.image.close().unwrap();
            assert_eq!(store.counts().writes, 0, "{name}");
            assert_eq!(store.pages().len(), pages.len(), "{name}");
            if options.extension.is_none() && !options.writable {
                let hash = sha256_of(disk.size(), |buf, offset| disk.read_at(buf, offset));
                assert_eq!(hash.unwrap(), sample.sha256, "{name}");
            }
            if let Some(offset) = whole {
                let mut bytes = vec![0; disk.size() as usize];
                store.read_exact_at(&mut bytes, offset).unwrap();
                assert!(bytes == disk.read(0, disk.size()).unwrap(), "{name}");
            }
        }
    }
}

#[test]
fn hyper_vs_swap_disk_has_one_block_behind_two_chunks() {
    // 10 GiB in chunks of 4 GiB; hashing the zeros takes minutes, so the map is asked.
    let corpus = match corpus_of(&["hyperv-swap.vhdx"]) {
        Ok(corpus) => corpus,
        Err(reason) => virtdisk_testkit::skip!("{reason}"),
    };
    let disk = Disk::open_pages(&pages(&corpus, "hyperv-swap.vhdx"), &reading()).unwrap();
    assert_eq!(disk.size(), sample_named("hyperv-swap.vhdx").virtual_size);
    let extents = disk.extents(0, disk.size()).unwrap();
    let data: Vec<_> = extents
        .iter()
        .filter(|extent| extent.place != Place::Zero)
        .map(|extent| (extent.start, extent.len))
        .collect();
    assert_eq!(disk.image.physical().unwrap().blocks_allocated, 1);
    assert_eq!(data, [(0, 32 * MIB)]);
    if std::env::var_os("VIRTDISK_SLOW").is_some() {
        let hash = sha256_of(disk.size(), |buf, offset| disk.read_at(buf, offset)).unwrap();
        assert_eq!(hash, sample_named("hyperv-swap.vhdx").sha256);
    }
}

#[test]
fn differencing_vhdx_of_the_corpus_read_over_their_parents_as_the_table_says() {
    // 9: the identities; the locators of Windows 10 in 2.8.
    let pairs = [
        (
            "fat-differential.vhdx",
            "fat-parent.vhdx",
            "f88d4d92-6fcc-408d-9bef-9b7c89f15c89",
        ),
        (
            "ntfs-differential.vhdx",
            "ntfs-parent.vhdx",
            "7584f8fb-36d3-4091-afb5-b1afe587bfa8",
        ),
    ];
    let names: Vec<&str> = pairs
        .iter()
        .flat_map(|(child, parent, _)| [*child, *parent])
        .collect();
    let corpus = match corpus_of(&names) {
        Ok(corpus) => corpus,
        Err(reason) => virtdisk_testkit::skip!("{reason}"),
    };
    for (child_name, parent_name, identity) in pairs {
        let sample = sample_named(child_name);
        let child = Disk::open_pages(&pages(&corpus, child_name), &reading()).unwrap();
        let parent = Disk::open_pages(&pages(&corpus, parent_name), &reading()).unwrap();
        let facts = child.image.facts();
        assert_eq!(
            (facts.format, facts.kind),
            (Format::Vhdx, Kind::Differencing)
        );
        assert_eq!(facts.notices, [""; 0], "{child_name}");
        assert_eq!(facts.block_size, 2 << 20);
        assert_eq!(child.image.whole(), None);
        let link = facts.parent.as_ref().unwrap();
        assert_eq!(link.identities.len(), 1, "{link:?}");
        assert_eq!(link.identities[0].to_string(), identity);
        assert_eq!(link.identities[0], parent.image.facts().content_id);
        let kinds: Vec<HintKind> = link.hints.iter().map(|hint| hint.kind).collect();
        assert_eq!(
            kinds,
            [HintKind::Relative, HintKind::Volume, HintKind::Absolute]
        );
        assert!(link.hints[0].text.ends_with(parent_name), "{link:?}");
        // the page 83 id is the same.
        assert_eq!(facts.identifier, parent.image.facts().identifier);
        let hash = sha256_of(child.size(), |buf, offset| {
            read_over(&child, &parent, buf, offset)
        });
        assert_eq!(hash.unwrap(), sample.sha256, "{child_name}");
    }
}
