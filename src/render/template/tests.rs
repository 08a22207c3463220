use super::*;

const LONGEST: u64 = 4096;

fn filled(text: &str, values: &[&str]) -> Result<String, RenderError> {
    let names = match values {
        [_] => Names::Fields,
        _ => Names::Sources(
            ["one", "two", "three"]
                .iter()
                .take(values.len())
                .enumerate()
                .map(|(part, name)| Alias { name: (*name).to_owned(), part })
                .collect(),
        ),
    };
    let template = Template::new(text, names, LONGEST).unwrap();
    let parts: Vec<Json<'_>> = values.iter().map(|values| Json::parse(values.as_bytes()).unwrap()).collect();
    template.fill(&parts).map(|bytes| String::from_utf8(bytes).unwrap())
}

fn fault(text: &str, values: &str) -> (Option<usize>, TemplateFault) {
    match filled(text, &[values]).unwrap_err() {
        RenderError::Template { line, fault } => (line, fault),
        other => panic!("{text}: {other:?}"),
    }
}

fn mistake(text: &str) -> TemplateMistake {
    Template::new(text, Names::Fields, LONGEST).unwrap_err()
}

const LOGIN: &str = r#"{"username":"v-agent","password":"p:a/s's","port":5432,"tls":true,"none":null,
    "ratio":1.50,"big":123456789012345678901234567890,"exp":1E5,"float":0.25,
    "hosts":["a","b"],"nested":{"k":[1,{"x":"y"}],"a b":"c"},"api-key":"k1"}"#;

#[test]
fn fields_stand_for_their_values_as_they_were_written() {
    for (text, shown) in [
        ("", ""),
        ("no tags\n", "no tags\n"),
        ("postgresql://{{ username }}:{{ password }}@db/app", "postgresql://v-agent:p:a/s's@db/app"),
        ("{{ port }} {{ tls }} {{ none }}", "5432 true null"),
        ("{{ ratio }} {{ big }} {{ exp }} {{ float }}", "1.50 123456789012345678901234567890 1E5 0.25"),
        ("{{ port + 1 }} {{ float * 2 }}", "5433 0.5"),
        ("{{ hosts }} {{ nested }}", r#"["a","b"] {"k":[1,{"x":"y"}],"a b":"c"}"#),
        ("{{ nested.k[1].x }}{{ nested['a b'] }}", "yc"),
        ("{{ data['api-key'] }}{{ data.username }}", "k1v-agent"),
        ("{{ data.ratio | json }}", "1.50"),
        ("{% for host in hosts %}{{ loop.index }}:{{ host }} {% endfor %}", "1:a 2:b "),
        ("{% if tls and port == 5432 %}on{% else %}off{% endif %}", "on"),
        ("{% set url = username ~ '@' ~ hosts[0] %}{{ url }}", "v-agent@a"),
        ("${NAME} {{ '{{' }} {% raw %}{{ x }}{% endraw %}", "${NAME} {{ {{ x }}"),
        ("{{ {'b': [1, username], 'a': ratio} | json }}", r#"{"a":1.50,"b":[1,"v-agent"]}"#),
    ] {
        assert_eq!(filled(text, &[LOGIN]).unwrap(), shown, "{text}");
    }
}

#[test]
fn lines_of_statements_alone_leave_nothing_behind() {
    let text = "[hosts]\n{% for host in hosts %}\n  {% if true %}\n  host = {{ host }}\n  {% endif %}\n{% endfor %}\nend\n";
    assert_eq!(filled(text, &[LOGIN]).unwrap(), "[hosts]\n  host = a\n  host = b\nend\n");
}

#[test]
fn filters_do_what_the_table_says() {
    for (text, shown) in [
        ("{{ password | json }}", "\"p:a/s's\""),
        ("{{ nested | tojson }}", r#"{"k":[1,{"x":"y"}],"a b":"c"}"#),
        ("{{ username | base64 }} {{ username | b64encode }}", "di1hZ2VudA== di1hZ2VudA=="),
        ("{{ 'aGk' | b64decode }}", "hi"),
        ("{{ password | urlencode }}", "p%3Aa%2Fs%27s"),
        ("{{ 'ü a~b' | urlencode }}", "%C3%BC%20a~b"),
        ("{{ 'abc' | sha256 }}", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ("{{ password | quote }} {{ '' | quote }} {{ port | quote }}", "'p:a/s'\\''s' '' 5432"),
        ("{{ ' ü=' | properties }}", "\\ \\u00FC="),
        ("{{ '<a b=\"c\">&\\'' | xml }}", "&lt;a b=&quot;c&quot;&gt;&amp;&apos;"),
        ("{{ 'a:b\\\\c' | pgpass }}", "a\\:b\\\\c"),
        ("{{ ' a ' | trim }}{{ 'aB' | upper }}{{ 'aB' | lower }}", "aABab"),
        ("{{ 'a-b-c' | replace('-', '') }}", "abc"),
        ("{{ 'a\\nb\\n\\nc' | indent(2) }}", "a\n  b\n\n  c"),
        ("{{ 'a\\nb' | indent(2, first=true) }}", "  a\n  b"),
        ("{{ hosts | join(',') }} {{ hosts | join }} {{ [tls, 1] | join }}", "a,b ab true1"),
        ("{{ hosts | length }} {{ 'üb' | length }} {{ hosts | first }} {{ hosts | last }}", "2 2 a b"),
        ("{% for k, v in nested | items %}{{ k }}={{ v }};{% endfor %}", "k=[1,{\"x\":\"y\"}];a b=c;"),
        ("{{ 'a\\nb' | lines | json }}", "[\"a\",\"b\"]"),
        ("{% filter upper | trim %} {{ username }} {% endfilter %}", "V-AGENT"),
    ] {
        assert_eq!(filled(text, &[LOGIN]).unwrap(), shown, "{text}");
    }
    let mut environment = Environment::empty();
    filters::add(&mut environment);
    for name in filters::NAMES {
        assert!(Template::new(&format!("{{{{ a | {name} }}}}"), Names::Fields, 1).is_ok(), "{name}");
        let state = environment.empty_state();
        assert!(format!("{environment:?}").contains(&format!("\"{name}\"")), "{name} {state:?}");
    }
}

#[test]
fn what_the_secret_does_not_have_is_an_error_that_names_it() {
    let no_name = |name: &str| (None, TemplateFault::NoSuchName { name: name.to_owned() });
    for (text, name) in [
        ("{{ pasword }}", "pasword"),
        ("{{ pasword | json }}", "pasword"),
        ("{% if pasword %}x{% endif %}", "pasword"),
        ("{% if false %}{{ pasword }}{% endif %}", "pasword"),
        ("{{ username if false else pasword }}", "pasword"),
        ("{{ data.pasword }}", "data.pasword"),
        ("{{ nested.l }}", "nested.l"),
        ("{{ range(3) }}", "range"),
        ("{{ pasword or 'fallback' }}", "pasword"),
    ] {
        assert_eq!(fault(text, LOGIN), no_name(name), "{text}");
    }
    for text in [
        "\n{{ data['pasword'] }}",
        "\n{{ hosts[2] }}",
        "\n{{ username.x }}",
        "\n{{ username if false }}",
        "\n{{ [] | first }}",
        "\n{{ data['pasword'] | json }}",
        "\n{{ 'x' ~ data['pasword'] }}",
        "\n{% for x in data['pasword'] %}{% endfor %}",
        "\n{% if data['pasword'] %}x{% endif %}",
        "\n{% set x = data['pasword'] %}{{ x }}",
        "\n{{ data['pasword'] or 'fallback' }}",
        "\n{{ [data['pasword']] | join }}",
        "\n{{ {'a': data['pasword']} }}",
    ] {
        assert_eq!(fault(text, LOGIN), (Some(2), TemplateFault::Undefined), "{text}");
    }
}

#[test]
fn several_sources_are_objects() {
    let (db, api) = (r#"{"password":"x"}"#, r#"{"key":"k","data":{"z":1}}"#);
    assert_eq!(filled("{{ one.password }}/{{ two.key }}/{{ two.data.z }}", &[db, api]).unwrap(), "x/k/1");
    let error = filled("{{ one.key }}", &[db, api]).unwrap_err();
    let fault = TemplateFault::NoSuchName { name: "one.key".to_owned() };
    assert_eq!(error, RenderError::Template { line: None, fault });
    let aliases = Names::Sources(vec![Alias { name: "db".to_owned(), part: 0 }]);
    let error = Template::new("{{ api.key }}", aliases, LONGEST).unwrap_err();
    assert_eq!(error.message, "uses `api`, and `secrets` has `db`");
}

#[test]
fn the_name_of_the_whole_is_not_taken_by_a_field() {
    assert_eq!(filled("{{ data.data }}", &[r#"{"data":"x"}"#]).unwrap(), "x");
}

#[test]
fn only_what_is_used_must_be_text() {
    let values = r#"{"a":"\ud83d","b":"fine"}"#;
    assert_eq!(filled("{{ b }}", &[values]).unwrap(), "fine");
    assert_eq!(filled("{{ a }}", &[values]), Err(RenderError::NotText { field: "a".to_owned() }));
    assert_eq!(filled("{{ data.b }}", &[values]), Err(RenderError::NotText { field: "a".to_owned() }));
}

#[test]
fn mistakes_are_found_before_any_value_is_known() {
    for (text, line, fragment) in [
        ("{{ a", 1, "unexpected end"),
        ("\n\n{% if a %}", 3, "unexpected end"),
        ("{% include 'x' %}", 1, "unknown statement include"),
        ("{% import 'x' as y %}", 1, "unknown statement import"),
        ("{% macro x() %}{% endmacro %}", 1, "unknown statement macro"),
        ("{% block x %}{% endblock %}", 1, "unknown statement block"),
        ("\n{{ a | default('x') }}", 2, "`default` would hide that a secret is missing"),
        ("{{ a | d }}", 1, "`d` would hide that a secret is missing"),
        ("{{ a | safe }}", 1, "there is no filter `safe`: the filters are b64decode, b64encode,"),
        ("{{ a is defined }}", 1, "there is no test `is defined`"),
    ] {
        let mistake = mistake(text);
        assert_eq!(mistake.line, Some(line), "{text}: {mistake:?}");
        assert!(mistake.message.contains(fragment), "{text}: {mistake:?}");
    }
}

#[test]
fn work_and_output_are_bounded() {
    let long = format!(r#"{{"a":"{}","n":99999999}}"#, "x".repeat(1000));
    assert_eq!(filled("{{ a }}{{ a }}{{ a }}{{ a }}", &[&long]).unwrap().len(), 4000);
    let too_long = (None, TemplateFault::TooLong { longest: LONGEST });
    assert_eq!(fault("{{ a }}{{ a }}{{ a }}{{ a }}{{ a }}", &long), too_long);
    for text in [
        "{% for a in data %}{% for b in [1] * n %}{% endfor %}{% endfor %}",
        "{{ a * n }}",
        "{% set x = [[1] * 1000] * 1000 %}{% for a in x %}{% for b in a %}{{ b ~ b }}{% endfor %}{% endfor %}",
        "{% for i in [1] * 100000000 %}{% endfor %}",
    ] {
        let fault = fault(text, &long).1;
        assert!(
            matches!(fault, TemplateFault::TooMuchWork | TemplateFault::TooLong { .. }),
            "{text}: {fault:?}"
        );
    }
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    assert!(matches!(
        filled("{{ a }}", &[&format!("{{\"a\":{deep}}}")]),
        Err(RenderError::TooDeep { levels: 64 })
    ));
    let nested = format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(Template::new(&nested, Names::Fields, LONGEST).is_err());
    let loops = format!("{}x{}", "{% for i in a %}".repeat(100), "{% endfor %}".repeat(100));
    match Template::new(&loops, Names::Fields, LONGEST) {
        Ok(template) => {
            let values = Json::parse(br#"{"a":[1]}"#).unwrap();
            assert!(template.fill(&[values]).is_err());
        }
        Err(mistake) => assert!(mistake.message.contains("recursion"), "{mistake:?}"),
    }
}

#[test]
fn no_error_holds_a_value() {
    let values = r#"{"a":"hunter2","l":["hunter2"],"o":{"hunter2":"hunter2"},"n":"hunter2\u0000"}"#;
    for text in [
        "{{ a + 1 }}",
        "{{ a - 1 }}",
        "{{ -a }}",
        "{{ a * a }}",
        "{{ a // 0 }}",
        "{{ a < 1 }}{{ a() }}",
        "{{ a.upper() }}",
        "{{ o.hunter() }}",
        "{{ l[a] }}",
        "{{ a | b64decode }}",
        "{{ n | quote }}",
        "{{ a | indent(a) }}",
        "{{ a | indent(l) }}",
        "{{ a | replace('', 'x') }}",
        "{{ a | replace(o) }}",
        "{{ a | join(l) }}",
        "{{ 1 | items }}",
        "{{ 1 | first }}",
        "{{ 1 | length }}",
        "{{ a[1:2:0] }}",
        "{% for x, y in l %}{% endfor %}",
        "{% for x in 1 %}{% endfor %}",
        "{{ 1 in 2 }}",
        "{% autoescape a %}{{ a }}{% endautoescape %}",
    ] {
        let error = filled(text, &[values]).expect_err(text);
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{text}: {error}");
        assert!(matches!(error, RenderError::Template { .. }), "{text}: {error:?}");
    }
}

#[test]
fn a_template_is_told_from_others_without_its_text() {
    let template = |text: &str| format!("{:?}", Template::new(text, Names::Fields, 9).unwrap());
    assert_eq!(template("{{ a }}"), template("{{ a }}"));
    assert_ne!(template("{{ a }}"), template("{{ a }}\n"));
    assert!(!template("{{ a }}").contains("{{"));
}
