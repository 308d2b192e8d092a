"""What happens in the alert stories: attack chains as data, step by step (invented; no real customer, file
or host).

A playbook is one alert (title, category, severity); each of its steps is one detection of that alert.
`{user}` is filled in when a step is rendered; hashes follow from the file's name, so that one tool has
the same hash in every tenant, as in life.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One detection: file, process, network and antivirus details; what is absent stays empty."""

    source: str = "EDR"
    file: str = ""
    path: str = ""
    command: str = ""
    ip: str = ""
    url: str = ""
    threat: str = ""
    family: str = ""
    threat_category: str = ""
    remediation: str = ""
    remediated: bool | None = None
    executing: bool | None = None
    ioc: str = ""
    ioc_value: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Playbook:
    """One alert and its detections in the order in which they happen."""

    title: str
    category: str
    severity: str
    description: str
    rule: str
    steps: tuple[Step, ...]
    actor: str = ""


SYSTEM32 = "C:\\Windows\\System32"
POWERSHELL = f"{SYSTEM32}\\WindowsPowerShell\\v1.0"
DOWNLOADS = "C:\\Users\\{user}\\Downloads"
TEMP = "C:\\Users\\{user}\\AppData\\Local\\Temp"

PLAYBOOKS: tuple[Playbook, ...] = (
    Playbook(
        "Suspicious PowerShell command line",
        "Execution",
        "Medium",
        "A suspicious PowerShell activity was observed on the machine. This behavior may indicate that "
        "PowerShell was used during installation, exploration, or in some cases in lateral movement activities.",
        "f0e6b9a1-3c6d-4d3e-8a0b-1f2e3d4c5b6a",
        (
            Step(
                file="WINWORD.EXE",
                path="C:\\Program Files\\Microsoft Office\\root\\Office16",
                command='"WINWORD.EXE" /n "' + DOWNLOADS + '\\Invoice 4471 – März.docm" /o ""',
            ),
            Step(
                file="powershell.exe",
                path=POWERSHELL,
                command="powershell.exe -nop -w hidden -enc SQBFAFgAIAAoAE4AZQB3AC0ATwBiAGoAZQBjAHQA",
            ),
            Step(
                file="powershell.exe",
                path=POWERSHELL,
                ip="203.0.113.77",
                url="http://cdn.updates.example/p/stage2.ps1",
                ioc="IP",
                ioc_value="203.0.113.77",
            ),
            Step(
                source="Antivirus",
                file="stage2.dll",
                path=TEMP,
                threat="Trojan:Win32/Sloppyload.A",
                family="Sloppyload",
                threat_category="Trojan",
                remediation="quarantine",
                remediated=True,
                executing=True,
            ),
        ),
    ),
    Playbook(
        "Possible credential dumping from LSASS memory",
        "CredentialAccess",
        "High",
        "A process read the memory of the Local Security Authority Subsystem Service. Attackers do this to "
        "obtain the credentials of signed-in users.",
        "0b2f6f1c-72a5-4f8e-9c37-5d1f0a9be2d4",
        (
            Step(
                file="rundll32.exe",
                path=SYSTEM32,
                command="rundll32.exe comsvcs.dll, MiniDump 712 C:\\ProgramData\\d.dmp full",
            ),
            Step(
                file="procdump64.exe",
                path="C:\\ProgramData",
                command="procdump64.exe -accepteula -ma lsass.exe l.dmp",
            ),
            Step(
                source="Antivirus",
                file="d.dmp",
                path="C:\\ProgramData",
                threat="HackTool:Win32/DumpLsass.B",
                family="DumpLsass",
                threat_category="Tool",
                remediation="remove",
                remediated=False,
                executing=False,
            ),
        ),
        actor="SAPPHIRE HERON",
    ),
    Playbook(
        "Ransomware behavior detected in the file system",
        "Impact",
        "High",
        "Many files were renamed and rewritten in a short time, and a note was left in each folder. This is "
        "what ransomware does when it encrypts a device.",
        "7d54a1cc-9b0e-4b61-a1f5-6e3c8d2b7f90",
        (
            Step(
                file="psexec.exe",
                path="C:\\Windows\\Temp",
                command="psexec.exe \\\\fs-02 -s -d cmd /c start x.exe",
            ),
            Step(file="vssadmin.exe", path=SYSTEM32, command="vssadmin.exe Delete Shadows /All /Quiet"),
            Step(
                file="x.exe",
                path="C:\\Windows\\Temp",
                command="x.exe -path D:\\Shares -note README_restore.txt",
            ),
            Step(
                source="Antivirus",
                file="x.exe",
                path="C:\\Windows\\Temp",
                threat="Ransom:Win64/Lockbird.C",
                family="Lockbird",
                threat_category="Ransomware",
                remediation="quarantine",
                remediated=True,
                executing=True,
            ),
            Step(file="bcdedit.exe", path=SYSTEM32, command="bcdedit.exe /set {default} recoveryenabled No"),
            Step(file="wevtutil.exe", path=SYSTEM32, command="wevtutil.exe cl Security"),
        ),
        actor="TIN LANTERN",
    ),
    Playbook(
        "Malware was prevented",
        "Malware",
        "Informational",
        "Microsoft Defender Antivirus found and removed malware before it ran.",
        "c4a3e1d7-5f2b-49a8-b6c0-8e9d7f1a2b3c",
        (
            Step(
                source="Antivirus",
                file="setup_free.exe",
                path=DOWNLOADS,
                threat="PUA:Win32/BundleBear",
                family="BundleBear",
                threat_category="PotentiallyUnwantedSoftware",
                remediation="quarantine",
                remediated=True,
                executing=False,
            ),
        ),
    ),
    Playbook(
        "Connection to a custom network indicator",
        "CommandAndControl",
        "Low",
        "A process on the device connected to an address that is on the organization's indicator list.",
        "5e8f2a90-1d4c-4f7b-8a36-2c9b0d7e6f15",
        (
            Step(
                file="chrome.exe",
                path="C:\\Program Files\\Google\\Chrome\\Application",
                url="https://login.contoso-support.example/verify?u=1&r=%2Fhome",
                ip="198.51.100.24",
                ioc="Url",
                ioc_value="login.contoso-support.example",
            ),
            Step(
                file="chrome.exe",
                path="C:\\Program Files\\Google\\Chrome\\Application",
                ip="2001:db8::5:77",
                ioc="IP",
                ioc_value="2001:db8::5:77",
            ),
        ),
    ),
    Playbook(
        "Suspicious scheduled task was created",
        "Persistence",
        "Medium",
        "A scheduled task that starts a script from a user's folder was created from a remote session.",
        "91b7c3d5-e2f4-4a68-90bc-d1e2f3a4b5c6",
        (
            Step(
                file="schtasks.exe",
                path=SYSTEM32,
                command='schtasks.exe /create /sc minute /mo 5 /tn "OneDrive Update" /tr "wscript '
                + TEMP
                + '\\u.vbs"',
            ),
            Step(file="wscript.exe", path=SYSTEM32, command='wscript.exe "' + TEMP + '\\u.vbs"'),
            Step(file="reg.exe", path=SYSTEM32, command="reg.exe add HKCU\\Software\\Run /v od /d u.vbs /f"),
        ),
    ),
    Playbook(
        "Unusual sign-in followed by lateral movement",
        "LateralMovement",
        "High",
        "An account that had never used this device signed in over the network and started others.",
        "2a6d9e8b-47c1-4d50-b3f2-7c8e9a0b1d2e",
        (
            Step(file="svchost.exe", path=SYSTEM32, ip="10.20.0.9"),
            Step(file="wmiprvse.exe", path=SYSTEM32 + "\\wbem", command="wmiprvse.exe -secured -Embedding"),
            Step(
                file="cmd.exe",
                path=SYSTEM32,
                command='cmd.exe /Q /c net group "Domain Admins" /domain 1> \\\\127.0.0.1\\ADMIN$\\__t 2>&1',
            ),
            Step(
                file="ntdsutil.exe",
                path=SYSTEM32,
                command='ntdsutil.exe "ac i ntds" "ifm" "create full c:\\t" q q',
            ),
        ),
        actor="SAPPHIRE HERON",
    ),
    Playbook(
        "Phishing document opened",
        "InitialAccess",
        "Low",
        "A document from an external sender was opened and asked for its macros to be enabled.",
        "d3c2b1a0-9f8e-4d7c-8b6a-5f4e3d2c1b0a",
        (
            Step(file="OUTLOOK.EXE", path="C:\\Program Files\\Microsoft Office\\root\\Office16"),
            Step(
                source="Antivirus",
                file="請求書_0931.xlsm",
                path=DOWNLOADS,
                threat="TrojanDownloader:O97M/Paperkite.D",
                family="Paperkite",
                threat_category="TrojanDownloader",
                remediation="none",
                remediated=None,
                executing=False,
            ),
        ),
    ),
)

USERS = (
    "kim",
    "a.lopez",
    "j.müller",
    "priya.n",
    "svc-backup",
    "o.haugen",
    "m.tanaka",
    "admin01",
    "l.o'neill",
    "zoë.k",
    "d.silva",
    "guest",
)
DEVICE_KINDS = (("ws", "Workstations"), ("lap", "Laptops"), ("srv", "Servers"), ("dc", "Domain controllers"))
DEVICE_TAGS = ("", "", "Finance", "Kiosk", "")
CLOUD_TAGS = ("", "", "", "VIP", "VIP,Managed", "Managed")
