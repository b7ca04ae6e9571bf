//! The testkit's own tools must be able to fail: each is shown to notice what it is for.

use std::collections::BTreeSet;
use std::sync::Arc;

use virtdisk_format::Store;
use virtdisk_testkit::corpus::{corpus, sample_named, sha256_of};
use virtdisk_testkit::{
    CrashStore, Fault, FaultStore, MemoryStore, Pages, Rng, SectorModel, Verb, Which, skip,
};

#[test]
fn sparse_pages_agree_with_a_plain_vector() {
    let mut rng = Rng::announced("sparse_pages_agree_with_a_plain_vector");
    let mut pages = Pages::default();
    let mut plain: Vec<u8> = Vec::new();
    for _ in 0..3000 {
        let offset = rng.below(40_000);
        let len = rng.below(9_000);
        match rng.below(4) {
            0 => {
                pages.set_len(offset);
                plain.resize(offset as usize, 0);
            }
            1 => {
                pages.zero(offset, len);
                let end = (offset + len).min(plain.len() as u64);
                if offset < end {
                    plain[offset as usize..end as usize].fill(0);
                }
            }
            _ => {
                let bytes = rng.bytes(len as usize);
                let end = offset as usize + bytes.len();
                plain.resize(plain.len().max(end), 0);
                plain[offset as usize..end].copy_from_slice(&bytes);
                pages.write(&bytes, offset);
            }
        }
        assert_eq!(pages.len(), plain.len() as u64);
        assert!(pages.to_vec() == plain, "contents differ");
    }
    let mut buf = [0; 10];
    assert!(!pages.read(&mut buf, pages.len() - 9));
}

#[test]
fn a_file_of_many_tebibytes_costs_what_it_holds() {
    let store = MemoryStore::new();
    store.write_all_at(b"x", 60 << 40).unwrap();
    assert_eq!(store.len().unwrap(), (60 << 40) + 1);
    assert_eq!(store.allocated(), 4096);
    let mut buf = [1; 512];
    store.read_exact_at(&mut buf, 1 << 40).unwrap();
    assert_eq!(buf, [0; 512]);
    assert!(store.read_exact_at(&mut buf, 60 << 40).is_err());
}

#[test]
fn crash_images_are_all_that_a_cut_can_leave() {
    let store = CrashStore::new();
    store.write_all_at(&[1; 4], 0).unwrap();
    store.flush().unwrap();
    store.mark();
    store.write_all_at(&[2; 4], 0).unwrap();
    store.write_all_at(&[3; 4], 4).unwrap();
    store.set_len(6).unwrap();
    store.mark();

    let mut seen = BTreeSet::new();
    for image in store.crash_images() {
        assert!(image.settled <= image.begun, "{}", image.what);
        seen.insert((image.pages.to_vec(), image.settled));
    }
    // Before the first flush nothing, or not even the first write; afterwards at least [1; 4].
    let wanted: BTreeSet<(Vec<u8>, usize)> = [
        vec![],
        vec![1, 1, 1, 1],
        vec![2, 2, 2, 2],
        vec![2, 2, 2, 2, 3, 3, 3, 3],
        vec![2, 2, 2, 2, 3, 3],
        vec![1, 1, 1, 1, 3, 3, 3, 3],
        vec![1, 1, 1, 1, 0, 0],
        vec![1, 1, 1, 1, 3, 3],
        vec![2, 2, 2, 2, 0, 0],
    ]
    .into_iter()
    .map(|bytes| (bytes, 0))
    .collect();
    assert_eq!(seen, wanted);
}

#[test]
fn marks_settle_at_the_next_flush() {
    let store = CrashStore::new();
    store.write_all_at(&[1; 512], 0).unwrap();
    store.mark();
    store.write_all_at(&[2; 512], 512).unwrap();
    store.mark();
    store.flush().unwrap();
    store.write_all_at(&[3; 512], 1024).unwrap();
    let last = store.crash_images().last().unwrap();
    assert_eq!((last.settled, last.begun), (2, 2));
    let first = store.crash_images().next().unwrap();
    assert_eq!((first.settled, first.begun, first.pages.len()), (0, 0, 0));
    let counts: Vec<usize> = store.kill_images().map(|image| image.settled).collect();
    assert_eq!(counts, [0, 1, 1, 2, 2]);
}

#[test]
fn a_torn_write_keeps_whole_sectors() {
    let store = CrashStore::new();
    store.write_all_at(&[9; 512 * 5], 0).unwrap();
    let torn: Vec<Vec<u8>> = store
        .crash_images()
        .filter(|image| image.what.contains("Torn"))
        .map(|image| image.pages.to_vec())
        .collect();
    assert_eq!(torn.len(), 5);
    for bytes in torn {
        for sector in bytes.chunks(512) {
            assert!(
                sector.iter().all(|&byte| byte == sector[0]),
                "a sector is torn"
            );
        }
    }
}

#[test]
fn the_chosen_operation_fails_and_no_other() {
    let memory = Arc::new(MemoryStore::from_bytes(&[1; 4096]));
    let store = FaultStore::new(memory.clone(), Which::Changes, Fault::Short);
    store.fail_at(2);
    let mut buf = [0; 4096];
    store.read_exact_at(&mut buf, 0).unwrap();
    store.write_all_at(&[2; 1024], 0).unwrap();
    let error = store.write_all_at(&[3; 2048], 2048).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
    assert!(store.has_failed());
    store.flush().unwrap();
    let bytes = memory.to_vec();
    assert_eq!(
        (bytes[0], bytes[2048], bytes[3071], bytes[3072]),
        (2, 3, 3, 1)
    );

    let store = FaultStore::new(memory, Which::Space, Fault::NoSpace).lasting();
    store.fail_at(1);
    store.flush().unwrap();
    assert_eq!(store.set_len(9000).unwrap_err().raw_os_error(), Some(28));
    assert_eq!(
        store.write_all_at(b"x", 0).unwrap_err().raw_os_error(),
        Some(28)
    );
    assert_eq!(store.operations(), 2);
}

#[test]
fn the_model_names_the_first_wrong_byte() {
    let mut model = SectorModel::new(1 << 20);
    model.write(&[7; 1000], 70_000);
    let mut bytes = model.read(0, 1 << 20);
    let read = |bytes: Vec<u8>| {
        move |buf: &mut [u8], offset: u64| -> Result<(), String> {
            buf.copy_from_slice(&bytes[offset as usize..offset as usize + buf.len()]);
            Ok(())
        }
    };
    model.compare(read(bytes.clone())).unwrap();
    bytes[70_500] = 8;
    let error = model.compare(read(bytes)).unwrap_err();
    assert!(
        error.starts_with("byte 70500: found 0x08, wanted 0x07"),
        "{error}"
    );
}

#[test]
fn after_a_cut_a_sector_is_old_or_one_of_the_later_states() {
    let model = SectorModel::new(4096);
    let later = [
        Verb::Write {
            offset: 512,
            len: 1024,
            seed: 1,
        },
        Verb::Trim {
            offset: 1024,
            len: 512,
        },
        Verb::Write {
            offset: 600,
            len: 8,
            seed: 2,
        },
    ];
    let mut state = SectorModel::new(4096);
    let check = |state: &SectorModel| {
        model.compare_after_crash(&later, |buf: &mut [u8], offset| -> Result<(), String> {
            buf.copy_from_slice(&state.read(offset, buf.len() as u64));
            Ok(())
        })
    };
    check(&state).unwrap();
    state.apply(&later[2]);
    check(&state).unwrap();
    state.apply(&later[0]);
    check(&state).unwrap();
    state.write(&[1], 3000);
    assert!(check(&state).is_err());
}

#[test]
fn random_verbs_stay_inside_the_disk() {
    let mut rng = Rng::new(1);
    for size in [512, 4096, 5120, 1 << 20] {
        for _ in 0..2000 {
            let range = Verb::random(&mut rng, size, 512, 1 << 16).range();
            assert!(range.end <= size && range.start <= range.end);
        }
    }
}

#[test]
fn the_corpus_is_what_its_table_says() {
    let corpus = match corpus() {
        Ok(corpus) => corpus,
        Err(reason) => skip!("{reason}"),
    };
    // The ISO files are their own disks, so their bytes can be checked without a format.
    for name in ["apple-test.iso", "iso9660.iso"] {
        let (bytes, sample) = (corpus.bytes(name), sample_named(name));
        assert_eq!(bytes.len() as u64, sample.virtual_size);
        let hash = sha256_of(sample.virtual_size, |buf, offset| -> Result<(), String> {
            buf.copy_from_slice(&bytes[offset as usize..offset as usize + buf.len()]);
            Ok(())
        });
        assert_eq!(hash.unwrap(), sample.sha256, "{name}");
    }
    assert_eq!(corpus.bytes("ntfs-fixed.vhd").len(), 4_194_304 + 512);
}
