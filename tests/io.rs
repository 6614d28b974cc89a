//! Files on a real file system: positioned reads, atomic writes, folders, the hub client against a local server.

use espalier::io::{ByteSource, FileSource};

#[test]
fn a_file_is_read_at_offsets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.bin");
    std::fs::write(&path, b"abcdef").unwrap();
    let source = FileSource::open(&path).unwrap();
    assert_eq!(source.len(), 6);
    assert_eq!(source.read_vec(1, 3).unwrap(), b"bcd");
    assert!(source.read_vec(1, 6).is_err());
    assert!(FileSource::open(folder.path()).is_err());
    assert!(FileSource::open(folder.path().join("y")).unwrap_err().to_string().starts_with("cannot open "));
}
