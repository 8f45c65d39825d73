//! The report of a booted image at a real receiver on the network: Python's HTTP server, with and
//! without TLS. The repair is judged from the disk, whatever becomes of the report.

use std::path::Path;

use anyhow::{Result, ensure};
use rescue_tests::artefacts;
use rescue_tests::esxi::EsxiDisk;
use rescue_tests::esxi::host::SATA;
use rescue_tests::judge::Judge;
use rescue_tests::machine::{Bus, Ending, Finished, Firmware, Machine, Medium};
use rescue_tests::ports;
use rescue_tests::receiver::{Certificate, Receiver};
use serde_json::Value;

/// How the machines in QEMU reach the receiver on this machine's loopback interface.
const HOST: &str = "10.0.2.2";

/// A machine with a network card, started from a stick with these settings.
fn machine(folder: &Path, disk: &Path, settings: &[&str]) -> Result<Machine> {
    let image = folder.join("rescue.img");
    let all = [&["countdown=0"], settings].concat();
    artefacts::customized("esxi-rescue.img", &all, &image)?;
    Ok(Machine::new(Firmware::Uefi)
        .medium(Medium::Stick(image))
        .disk(Bus::Ahci, disk)
        .args([
            "-netdev",
            "user,id=net",
            "-device",
            "e1000e,netdev=net,addr=0x9",
        ]))
}

/// The disk of one host, and what comes of its rescue with these settings.
fn rescued(settings: &[&str], nics: &[&str]) -> Result<Finished> {
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let machine = machine(folder.path(), &made.image, settings)?.args(nics.iter().copied());
    let finished = machine.run()?;
    finished.expect(Ending::Rebooted, "reverted")?;
    judge.repaired(&[0, 1], &[SATA])?;
    Ok(finished)
}

#[test]
fn the_image_sends_its_report_to_a_pinned_receiver() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let certificate = Certificate::make(folder.path(), "receiver", "rsa:2048")?;
    let receiver = Receiver::start("201", Some(&certificate))?;
    let report = format!("report=https://{HOST}:{}/in", receiver.port);
    let pin = format!("report_pin={}", certificate.fingerprint);
    let finished = rescued(&[&report, &pin], &[])?;
    let sent: Value = serde_json::from_slice(&receiver.only_body()?)?;
    ensure!(
        sent["result"] == "reverted" && sent["schema"] == "esxi-rescue/1",
        "{sent}"
    );
    let printed = finished.report()?;
    for field in ["disks", "devices", "host", "banks_changed"] {
        ensure!(
            sent[field] == printed[field],
            "{field} differs from the serial console's"
        );
    }
    Ok(())
}

#[test]
fn a_fixed_address_and_a_second_card_that_leads_nowhere_do_not_keep_it_from_there() -> Result<()> {
    let receiver = Receiver::start("200", None)?;
    let report = format!("report=http://{HOST}:{}/", receiver.port);
    let network = "network=10.0.2.77::10.0.2.2:255.255.255.0";
    // Its network is closed; the card's slot comes before the other's.
    let nowhere = [
        "-netdev",
        "user,id=no,restrict=on",
        "-device",
        "virtio-net-pci,netdev=no,addr=0x8",
    ];
    rescued(&[&report, network], &nowhere)?;
    receiver.only_body()?;
    Ok(())
}

#[test]
fn a_receiver_with_another_certificate_gets_nothing_and_the_repair_stands() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let certificate = Certificate::make(folder.path(), "receiver", "ec")?;
    let receiver = Receiver::start("201", Some(&certificate))?;
    let report = format!("report=https://{HOST}:{}/", receiver.port);
    let pin = format!("report_pin={}", "0123456789abcdef".repeat(4));
    rescued(&[&report, &pin], &[])?;
    ensure!(receiver.requests()?.is_empty());
    Ok(())
}

#[test]
fn a_receiver_that_never_answers_and_one_that_is_not_there_do_not_hold_up_the_machine() -> Result<()>
{
    let receiver = Receiver::start("never", None)?;
    rescued(&[&format!("report=http://{HOST}:{}/", receiver.port)], &[])?;
    ensure!(
        !receiver.requests()?.is_empty(),
        "the report got as far as the receiver"
    );
    let free = ports::free()?;
    rescued(&[&format!("report=http://{HOST}:{free}/")], &[])?;
    Ok(())
}
