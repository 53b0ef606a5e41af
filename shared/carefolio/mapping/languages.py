"""Languages as senders write them (ISO 639-1, 639-2, English names) -> BCP 47, which FHIR requires."""

from __future__ import annotations

# ISO 639-2 (both codes where there are two) of each language that has a two-letter code.
_TWO = (
    "aa:aar ab:abk ae:ave af:afr ak:aka am:amh an:arg ar:ara as:asm av:ava ay:aym az:aze ba:bak be:bel bg:bul "
    "bi:bis bm:bam bn:ben bo:tib,bod br:bre bs:bos ca:cat ce:che ch:cha co:cos cr:cre cs:cze,ces cu:chu cv:chv "
    "cy:wel,cym da:dan de:ger,deu dv:div dz:dzo ee:ewe el:gre,ell en:eng eo:epo es:spa et:est eu:baq,eus "
    "fa:per,fas ff:ful fi:fin fj:fij fo:fao fr:fre,fra fy:fry ga:gle gd:gla gl:glg gn:grn gu:guj gv:glv ha:hau "
    "he:heb hi:hin ho:hmo hr:hrv ht:hat hu:hun hy:arm,hye hz:her ia:ina id:ind ie:ile ig:ibo ii:iii ik:ipk "
    "io:ido is:ice,isl it:ita iu:iku ja:jpn jv:jav ka:geo,kat kg:kon ki:kik kj:kua kk:kaz kl:kal km:khm kn:kan "
    "ko:kor kr:kau ks:kas ku:kur kv:kom kw:cor ky:kir la:lat lb:ltz lg:lug li:lim ln:lin lo:lao lt:lit lu:lub "
    "lv:lav mg:mlg mh:mah mi:mao,mri mk:mac,mkd ml:mal mn:mon mr:mar ms:may,msa mt:mlt my:bur,mya na:nau nb:nob "
    "nd:nde ne:nep ng:ndo nl:dut,nld nn:nno no:nor nr:nbl nv:nav ny:nya oc:oci oj:oji om:orm or:ori os:oss "
    "pa:pan pi:pli pl:pol ps:pus pt:por qu:que rm:roh rn:run ro:rum,ron ru:rus rw:kin sa:san sc:srd sd:snd "
    "se:sme sg:sag si:sin sk:slo,slk sl:slv sm:smo sn:sna so:som sq:alb,sqi sr:srp ss:ssw st:sot su:sun sv:swe "
    "sw:swa ta:tam te:tel tg:tgk th:tha ti:tir tk:tuk tl:tgl tn:tsn to:ton tr:tur ts:tso tt:tat tw:twi ty:tah "
    "ug:uig uk:ukr ur:urd uz:uzb ve:ven vi:vie vo:vol wa:wln wo:wol xh:xho yi:yid yo:yor za:zha zh:chi,zho "
    "zu:zul"
)
# Languages without a two-letter code that are spoken in the UK, and signed ones; and names that senders write.
_THREE = ("bfi", "ase", "cmn", "yue", "hmn", "ckb", "kmr", "prs", "pes", "syl", "fil", "tpi", "pnb", "skr", "rom")
_NAMES = {
    "english": "en", "welsh": "cy", "polish": "pl", "urdu": "ur", "punjabi": "pa", "panjabi": "pa", "bengali": "bn",
    "gujarati": "gu", "arabic": "ar", "french": "fr", "portuguese": "pt", "spanish": "es", "tamil": "ta",
    "turkish": "tr", "italian": "it", "somali": "so", "lithuanian": "lt", "german": "de", "romanian": "ro",
    "persian": "fa", "farsi": "fa", "russian": "ru", "greek": "el", "hindi": "hi", "chinese": "zh", "mandarin": "cmn",
    "cantonese": "yue", "hungarian": "hu", "bulgarian": "bg", "czech": "cs", "slovak": "sk", "albanian": "sq",
    "kurdish": "ku", "pashto": "ps", "dutch": "nl", "vietnamese": "vi", "japanese": "ja", "ukrainian": "uk",
    "tagalog": "tl", "yoruba": "yo", "igbo": "ig", "amharic": "am", "tigrinya": "ti", "nepali": "ne", "sylheti": "syl",
    "british sign language": "bfi", "bsl": "bfi", "scottish gaelic": "gd", "irish": "ga",
}  # fmt: skip
_TAGS = (
    {two: two for two in (pair.partition(":")[0] for pair in _TWO.split())}
    | {three: two for two, _, threes in (p.partition(":") for p in _TWO.split()) for three in threes.split(",")}
    | {three: three for three in _THREE}
    | _NAMES
)


def bcp47(text: str) -> str | None:
    """The language tag of a code or a name; a region (``en-GB``) is kept. None for what is no language."""
    language, _, region = text.strip().replace("_", "-").partition("-")
    tag = _TAGS.get(language.strip().casefold())
    if tag and len(region) == 2 and region.isalpha() and region.isascii():
        return f"{tag}-{region.upper()}"
    return tag
