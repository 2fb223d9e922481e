import base64

from veilpod.control import certificate
from veilpod.core.keys import node_keys, signing_key
from veilpod.net.control_tls import control_certificate

KEY = "0x" + "42" * 32


def test_a_store_is_given_the_certificate_that_its_operator_will_present(tmp_path):
    (tmp_path / "key").write_text(KEY + "\n")
    assert certificate.main(["--key-file", str(tmp_path / "key"), "--output", str(tmp_path / "certificate")]) == 0
    written = (tmp_path / "certificate").read_text()
    assert base64.b64decode(written, validate=True) == control_certificate(node_keys(signing_key(KEY)).control)
    assert "42" * 32 not in written


def test_a_key_that_cannot_be_used_is_named_and_nothing_is_written(tmp_path, capsys):
    (tmp_path / "key").write_text("not a key")
    assert certificate.main(["--key-file", str(tmp_path / "key"), "--output", str(tmp_path / "certificate")]) == 2
    assert "32 bytes in hex" in capsys.readouterr().err
    assert not (tmp_path / "certificate").exists()


def test_a_missing_key_file_is_an_error_of_one_line(tmp_path, capsys):
    assert certificate.main(["--key-file", str(tmp_path / "none"), "--output", str(tmp_path / "certificate")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
