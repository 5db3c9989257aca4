"""Who may use the app: names and hashes in a file, never a password."""

from __future__ import annotations

import asyncio
import hashlib
import stat
from pathlib import Path

import pytest

from vlm.app.accounts import AccountError, Accounts, Secret, add_account


def admits(file: Path, name: str, password: str) -> bool:
    return asyncio.run(Accounts.read(file).admit(name, password))


def test_only_the_right_password_of_a_name_comes_in(tmp_path: Path) -> None:
    file = tmp_path / "users"
    add_account(file, "ada", "correct horse: battery")
    add_account(file, "grace", "staple")
    assert admits(file, "ada", "correct horse: battery")
    assert admits(file, "grace", "staple")
    assert not admits(file, "ada", "staple")
    assert not admits(file, "ada", "")
    assert not admits(file, "nobody", "")
    assert not admits(file, "", "staple")


def test_the_file_holds_no_password_and_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "users"
    add_account(file, "ada", "horse")
    add_account(file, "grace", "horse")
    text = file.read_text()
    assert "horse" not in text
    ada, grace = (line.partition(":")[2] for line in text.splitlines())
    assert ada != grace  # salted
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["users"]


def test_a_new_password_takes_the_place_of_the_old_and_all_else_stays(tmp_path: Path) -> None:
    file = tmp_path / "users"
    add_account(file, "ada", "horse")
    file.write_text(
        "\ufeff# the laboratory\r\n\r\n" + file.read_text() + f"gräce:{Secret.of('s')}\n", "utf-8"
    )
    add_account(file, "ada", "staple")
    assert admits(file, "ada", "staple")
    assert not admits(file, "ada", "horse")
    assert admits(file, "gräce", "s")
    assert "# the laboratory" in file.read_text()


def test_an_accent_is_one_letter_however_the_keyboard_writes_it(tmp_path: Path) -> None:
    add_account(tmp_path / "users", "ada", "caf\u00e9")
    assert admits(tmp_path / "users", "ada", "cafe\u0301")


def test_the_hash_is_scrypt_as_other_programs_write_it() -> None:
    secret = Secret.of("horse")
    again = Secret.parse(str(secret))
    assert again == secret
    assert again.key == hashlib.scrypt(b"horse", salt=again.salt, n=2**14, r=8, p=5, dklen=32)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ada:horse\n", "line 1 of"),
        ("# users\nada\n", "line 2 of"),
        ("ada:$2y$10$abcdefghijklmnopqrstuv\n", "line 1 of"),
        ("ada:$scrypt$ln=60,r=8,p=5$c2FsdA$a2V5\n", "line 1 of"),
        ("ada:$scrypt$ln=14,r=8,p=5$s$k\n", "line 1 of"),
        (f"ada:{Secret(b'salt', b'key')}\nada:{Secret(b'salt', b'key')}\n", "twice"),
        ("# nobody yet\n\n", "names nobody"),
    ],
)
def test_a_wrong_file_is_one_sentence_that_tells_no_secret(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "users"
    file.write_text(text)
    with pytest.raises(AccountError, match=said) as caught:
        Accounts.read(file)
    message = str(caught.value)
    assert str(file) in message
    assert "\n" not in message
    assert "horse" not in message


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(AccountError, match="no such file"):
        Accounts.read(tmp_path / "missing")
    with pytest.raises(AccountError, match="cannot be read"):
        Accounts.read(tmp_path)
    (tmp_path / "photo").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(AccountError, match="no text file"):
        Accounts.read(tmp_path / "photo")
    with pytest.raises(AccountError, match="cannot be written"):
        add_account(tmp_path / "missing" / "users", "ada", "horse")


@pytest.mark.parametrize("name", ["", " ada", "a:b", "#ada", "a\nb"])
def test_a_name_that_could_not_log_in_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(AccountError, match="cannot be a name"):
        add_account(tmp_path / "users", name, "horse")
    assert not (tmp_path / "users").exists()


def test_an_empty_password_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AccountError, match="password is empty"):
        add_account(tmp_path / "users", "ada", "")
